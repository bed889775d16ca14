//! Ls: lists the objects in the stores, from the headers of their shares.

use std::fmt;
use std::path::PathBuf;

use bytesize::ByteSize;
use decode_kernel::share::Header;

use crate::store::{self, Rejected, StoreError};

/// An object, or the remains of one.
#[derive(Debug)]
pub enum Listed {
    /// An object with at least one good header.
    Object {
        /// The header of the put that a reader would use; of the newest put, if none is readable.
        header: Header,
        /// The number of different shares of that put.
        shares: usize,
        /// Whether those are at least k.
        readable: bool,
        /// Share files of other puts of the key.
        other_puts: usize,
    },
    /// A directory whose share files all have bad headers, so that its key is unknown.
    Unusable {
        /// The directory below `objects`.
        dir: String,
        /// The problem of each file.
        rejected: Vec<Rejected>,
    },
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listed::Object {
                header,
                shares,
                readable,
                other_puts,
            } => {
                let Header {
                    key,
                    geometry,
                    code,
                    generation,
                    ..
                } = header;
                let (k, n) = (geometry.k(), geometry.n());
                let size = ByteSize(geometry.size()).display().iec().to_string();
                write!(
                    f,
                    "{size:>10}  {code} {k}+{}  {shares:>2}/{n} shares",
                    n - k
                )?;
                write!(f, "  {generation}  {key}")?;
                if !readable {
                    write!(f, "  UNREADABLE: {k} shares are needed")?;
                }
                if *other_puts > 0 {
                    write!(f, "  ({other_puts} shares of other puts)")?;
                }
                Ok(())
            }
            Listed::Unusable { dir, rejected } => {
                write!(f, "         ?  no usable share in objects/{dir}")?;
                rejected
                    .iter()
                    .try_for_each(|rejected| write!(f, "; {rejected}"))
            }
        }
    }
}

/// Lists all objects in `stores`, in the order of their keys' hashes. Opens the shares of one
/// object at a time, reads their headers and closes them. Fails if none of the stores can be read.
pub fn ls(stores: &[PathBuf]) -> Result<impl Iterator<Item = Listed> + '_, StoreError> {
    crate::temp::allow_open_files(stores.len());
    store::check_stores(stores)?;
    Ok(store::object_dirs(stores).filter_map(move |dir| list_object(stores, dir)))
}

fn list_object(stores: &[PathBuf], dir: String) -> Option<Listed> {
    let mut scan = store::scan_dir(stores, &dir, None);
    let chosen = scan.chosen(false);
    let Some(group) = scan.groups.get(chosen.unwrap_or(0)) else {
        // An interrupted put of a new key leaves an empty directory, a removal its tombstone.
        scan.forget_stores_away();
        let rejected = scan.rejected;
        return (!rejected.is_empty()).then_some(Listed::Unusable { dir, rejected });
    };
    let all: usize = scan.groups.iter().map(|group| group.shares.len()).sum();
    Some(Listed::Object {
        header: group.header.clone(),
        shares: group.distinct(),
        readable: chosen.is_some(),
        other_puts: all - group.shares.len(),
    })
}
