//! Inspect: prints what one Tahoe-LAFS share file says about itself. Without a cap it cannot be verified that the share
//! is what it says; inspect checks that its parts agree with each other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{
    CONTAINER_HEADER_BYTES, ChkCap, Container, Hash, Layout, ProvenNodes, Ueb, ueb_hash,
    verify_chain,
};

use serde::{Serialize, Serializer};

use super::blocks::{Job, check_block, hash_blocks};
use super::nodes::share_number;
use super::open::{OpenShare, open_container, read, read_layout};
use super::rejected::RejectReason;
use crate::open::open_regular;
use crate::progress::Progress;

/// Bytes of a block that are read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// The content of a share file. Displays as lines of names and values.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The container's header.
    pub container: Container,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The offset table, if it is valid.
    pub layout: Option<Layout>,
    /// The keys and values of the URI extension block, as far as it can be parsed.
    pub ueb: Vec<(String, Vec<u8>)>,
    /// The hash of the URI extension block. The file's cap would have the same hash.
    pub ueb_hash: Option<Hash>,
    /// The share number that the file is named by.
    pub number: Option<u16>,
    /// Blocks that are damaged or missing; `None` if the blocks were not read.
    pub bad_blocks: Option<u64>,
    /// Problems found, as text.
    pub warnings: Vec<String>,
}

impl Inspection {
    /// Whether no part that was checked is damaged.
    pub fn good(&self) -> bool {
        self.warnings.is_empty() && self.bad_blocks.unwrap_or(0) == 0
    }
}

/// A file that cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct InspectError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub reason: RejectReason,
}

/// Whether a file begins like a Tahoe-LAFS share.
pub fn recognises(path: &Path) -> bool {
    let mut head = [0; 4];
    let file = open_regular(path).ok().flatten();
    let read = file.and_then(|file| file.read_exact_at(&mut head, 0).ok());
    read.is_some() && Container::recognises(&head)
}

/// Reads the container, the offset table, the chain and the URI extension block of a share file; with `blocks` also all
/// its blocks.
pub fn inspect(path: &Path, blocks: bool, progress: &Progress) -> Result<Inspection, InspectError> {
    let opened = open_container(path)
        .and_then(|(file, container)| Ok((file.metadata()?.len(), file, container)));
    let (file_bytes, file, container) = opened.map_err(|reason| InspectError {
        path: path.to_owned(),
        reason,
    })?;
    let name = path.file_name().and_then(|name| name.to_str());
    let mut inspection = Inspection {
        container,
        file_bytes,
        layout: None,
        ueb: Vec::new(),
        ueb_hash: None,
        number: name.and_then(share_number),
        bad_blocks: None,
        warnings: Vec::new(),
    };
    if let Err(reason) = inspection.check_parts(file, path, blocks, progress) {
        inspection.warnings.push(reason.to_string());
    }
    Ok(inspection)
}

impl Inspection {
    /// Checks one part after another, and stops at the first bad one.
    fn check_parts(
        &mut self,
        file: File,
        path: &Path,
        blocks: bool,
        progress: &Progress,
    ) -> Result<(), RejectReason> {
        let (base, data_bytes) = (CONTAINER_HEADER_BYTES, self.container.data_bytes);
        let layout = *self.layout.insert(read_layout(&file, &self.container)?);
        let length = read(&file, layout.ueb_length_range(base, data_bytes)?)?;
        let bytes = read(&file, layout.ueb_range(&length, base, data_bytes)?)?;
        for entry in Ueb::entries(&bytes) {
            let (_, key, value) = entry?;
            self.ueb
                .push((String::from_utf8_lossy(key).into_owned(), value.to_vec()));
        }
        self.ueb_hash = Some(ueb_hash(&bytes));
        let ueb = self.check_ueb(&bytes)?;
        let geometry = ueb.geometry;
        let chain = read(&file, layout.chain_range(base, data_bytes)?)?;
        let regions = layout.regions(&geometry, base, data_bytes)?;
        if geometry.segments() > 1 && regions.ciphertext_node(0).is_none() {
            self.warnings
                .push("the ciphertext hash tree lies outside the share".into());
        }
        let Some(number) = self.number.filter(|&number| number < geometry.n()) else {
            let n = geometry.n();
            let warning = format!(
                "the file's name is no share number 0..{n}, so that neither chain nor blocks can \
                 be checked"
            );
            self.warnings.push(warning);
            return Ok(());
        };
        let tree = geometry.share_tree();
        let block_root = verify_chain(&chain, tree, number, &ueb.share_root)?;
        if !blocks {
            return Ok(());
        }
        let path = path.to_owned();
        let share = OpenShare {
            number,
            node: 0,
            path,
            file,
            regions,
            block_root,
        };
        progress.add_len(geometry.share_data_bytes());
        let mut lanes = Lanes::new(1);
        let mut area = vec![0; WINDOW_BYTES.min(geometry.block_len(0)) as usize];
        let mut bad = 0;
        for segment in 0..geometry.segments() {
            let block_len = geometry.block_len(segment);
            let mut jobs = [Job {
                share: &share,
                segment,
                area: &mut area,
            }];
            let hashes = hash_blocks(
                &mut lanes,
                &mut jobs,
                block_len,
                WINDOW_BYTES,
                &mut |_, _| (),
            );
            // Each block starts from the root again, so that every stored hash is checked.
            let mut fresh = ProvenNodes::new(geometry.tree(), block_root);
            let checked = hashes
                .into_iter()
                .map(|hash| check_block(&share, &mut fresh, segment, hash?));
            bad += checked.filter(Result::is_err).count() as u64;
            progress.add(block_len);
        }
        self.bad_blocks = Some(bad);
        Ok(())
    }

    /// Parses the UEB and checks it against a cap made from the same values.
    fn check_ueb(&self, bytes: &[u8]) -> Result<Ueb, RejectReason> {
        let number = |key: &str| {
            let found = self.ueb.iter().find(|entry| entry.0 == key);
            let text = found.and_then(|(_, value)| std::str::from_utf8(value).ok());
            text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        let (k, n) = (number("needed_shares"), number("total_shares"));
        let cap = ChkCap::new([0; 16], ueb_hash(bytes), k, n, number("size"));
        let cap = cap.map_err(|_| {
            std::io::Error::other("the URI extension block tells no size and numbers of shares")
        })?;
        Ok(Ueb::check(bytes, &cap, u64::MAX)?)
    }
}

/// In JSON an inspection is one document.
impl Serialize for Inspection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = Document {
            format: "tahoe-lafs",
            good: self.good(),
            container_version: self.container.version,
            file_bytes: self.file_bytes,
            data_bytes: self.container.data_bytes,
            leases: self.container.leases,
            number: self.number,
            layout: self.layout.as_ref().map(|layout| Offsets {
                version: layout.version,
                data: layout.data,
                plaintext_tree: layout.plaintext_tree,
                ciphertext_tree: layout.ciphertext_tree,
                block_tree: layout.block_tree,
                chain: layout.chain,
                ueb: layout.ueb,
            }),
            ueb_hash: self.ueb_hash.as_ref().map(|hash| hex(hash)),
            ueb: self
                .ueb
                .iter()
                .map(|(key, value)| (&**key, shown(value)))
                .collect(),
            bad_blocks: self.bad_blocks,
            warnings: &self.warnings,
        };
        document.serialize(serializer)
    }
}

/// What JSON has of an [`Inspection`].
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    good: bool,
    container_version: u32,
    file_bytes: u64,
    data_bytes: u64,
    leases: u32,
    number: Option<u16>,
    layout: Option<Offsets>,
    ueb_hash: Option<String>,
    ueb: BTreeMap<&'a str, String>,
    bad_blocks: Option<u64>,
    warnings: &'a [String],
}

/// Offsets in the share data.
#[derive(Serialize)]
struct Offsets {
    version: u32,
    data: u64,
    plaintext_tree: u64,
    ciphertext_tree: u64,
    block_tree: u64,
    chain: u64,
    ueb: u64,
}

/// A value of the URI extension block: text where it is short text, else hex.
fn shown(value: &[u8]) -> String {
    let text = value.iter().all(|byte| (0x20..0x7f).contains(byte)) && value.len() < 80;
    if text {
        String::from_utf8_lossy(value).into()
    } else {
        hex(value)
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Container {
            version,
            leases,
            data_bytes,
            ..
        } = self.container;
        writeln!(
            f,
            "format        Tahoe-LAFS immutable share, container version {version}"
        )?;
        writeln!(f, "file          {} bytes", self.file_bytes)?;
        writeln!(
            f,
            "share data    {data_bytes} bytes from byte {CONTAINER_HEADER_BYTES}"
        )?;
        writeln!(f, "leases        {leases}")?;
        match self.number {
            Some(number) => writeln!(f, "share         {number}, by the file's name")?,
            None => writeln!(f, "share         unknown: the file's name is no number")?,
        }
        if let Some(layout) = &self.layout {
            writeln!(
                f,
                "layout        version {}; offsets in the share data:",
                layout.version
            )?;
            for (what, offset) in [
                ("data", layout.data),
                ("plaintext hash tree, unused", layout.plaintext_tree),
                ("ciphertext hash tree", layout.ciphertext_tree),
                ("block hash tree", layout.block_tree),
                ("share hash chain", layout.chain),
                ("URI extension block", layout.ueb),
            ] {
                writeln!(f, "              {offset:>14}  {what}")?;
            }
        }
        if let Some(hash) = &self.ueb_hash {
            writeln!(f, "URI extension block, SHA-256d {}:", hex(hash))?;
        }
        for (key, value) in &self.ueb {
            let shown = shown(value);
            write!(f, "              {key}: {shown}")?;
            match shown.parse() {
                Ok(size) if key == "size" || key == "segment_size" => {
                    writeln!(f, " ({})", ByteSize(size).display().iec())?;
                }
                _ => writeln!(f)?,
            }
        }
        match self.bad_blocks {
            None => {}
            Some(0) => writeln!(f, "blocks        all good")?,
            Some(bad) => writeln!(f, "blocks        {bad} BAD")?,
        }
        for warning in &self.warnings {
            writeln!(f, "WRONG         {warning}")?;
        }
        write!(
            f,
            "Without its cap nothing proves a share to be what it says."
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
