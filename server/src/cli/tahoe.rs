//! Options of the subcommands that read Tahoe-LAFS files: where the shares are, and the cap.
//!
//! A cap is a secret, and other users of the machine may see command lines. So it can also come from a file or from
//! standard input, and no message shows it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytesize::ByteSize;
use decode_kernel::share::Key;
use decode_kernel::tahoe::{CAP_TEXT_MAX, Cap};
use penstock_store::Store;
use penstock_store::tahoe::Limits;

use super::stores;

/// Stores, or nodes of a Tahoe-LAFS grid.
// Options that require `nodes` also say that they conflict with the others: clap doesn't check `requires` where `nodes`
// itself conflicts.
#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    /// A store: a directory, or the URL of a bucket as in `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`,
    /// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX?account=NAME`; repeat it for each
    #[arg(
        long = "store",
        value_name = "STORE",
        value_parser = stores::store(),
        required_unless_present_any = ["nodes", "config"],
        conflicts_with = "nodes"
    )]
    stores: Vec<PathBuf>,
    /// Take the stores that a configuration file of `penstock serve` names
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stores", "nodes"])]
    config: Option<PathBuf>,
    /// A Tahoe-LAFS storage node's directory, its `storage` or its `shares`; repeat it for each
    #[arg(long = "tahoe-node", id = "nodes", value_name = "DIR")]
    nodes: Vec<PathBuf>,
    /// Read the cap from a file, or from standard input if it is `-`: other users can see command lines
    #[arg(
        long,
        value_name = "FILE",
        requires = "nodes",
        conflicts_with_all = ["stores", "config"]
    )]
    cap_file: Option<PathBuf>,
    /// Refuse Tahoe-LAFS files with longer segments
    #[arg(long, value_name = "SIZE", requires = "nodes", conflicts_with_all = ["stores", "config"], default_value = "1GiB")]
    tahoe_segment_max: ByteSize,
}

/// What a command reads.
pub(super) enum Source {
    /// Objects of stores: one, or all.
    Stores(Vec<Store>, Option<Key>),
    /// A file of a grid.
    Tahoe {
        /// Directories of its nodes.
        nodes: Vec<PathBuf>,
        /// The file's cap.
        cap: Cap,
        /// Limits on what an uploader may have chosen.
        limits: Limits,
    },
}

impl Sources {
    /// The source; `name` is an object's key or a cap.
    pub(super) fn source(self, name: Option<String>) -> anyhow::Result<Source> {
        if self.nodes.is_empty() {
            let key = name.as_deref().map(Key::new).transpose()?;
            let stores = stores::open(&self.stores, self.config.as_deref())?;
            return Ok(Source::Stores(stores, key));
        }
        let text = match (name, self.cap_file) {
            (Some(cap), None) => cap,
            (None, Some(path)) => read_cap(&path)?,
            (None, None) => anyhow::bail!("no cap: give one, or a file that holds it (--cap-file)"),
            (Some(_), Some(_)) => anyhow::bail!("two caps: one given, and --cap-file"),
        };
        let segment_max = self.tahoe_segment_max.as_u64();
        Ok(Source::Tahoe {
            nodes: self.nodes,
            cap: Cap::parse(&text)?,
            limits: Limits {
                segment_max,
                ..Limits::default()
            },
        })
    }
}

/// The cap in a file, without the white space around it.
fn read_cap(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    // A little more than the longest cap, so that a longer one is reported as too long.
    let limit = CAP_TEXT_MAX as u64 + 64;
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().take(limit).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read a cap from {}", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_one_of_the_library() {
        let said: ByteSize = "1GiB".parse().unwrap();
        assert_eq!(said.as_u64(), Limits::default().segment_max);
    }
}
