//! Opens a file: finds its shares in all nodes, and verifies that they belong to the cap.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::tahoe::{
    CONTAINER_HEADER_BYTES, ChkCap, Container, Geometry, Hash, LAYOUT_BYTES_MAX, Layout, Regions,
    StorageIndex, Ueb, UebError, verify_chain,
};

use super::nodes::{self, Candidate};
use super::rejected::{RejectReason, Rejected};
use crate::open::open_regular;
use crate::size::Size;

/// The longest segment that get and verify read by default: 1 GiB. The memory they take does not depend on the length,
/// apart from one checksum for each leaf. A longer segment costs time before its first byte is verified.
pub const SEGMENT_MAX_DEFAULT: u64 = 1 << 30;

/// Limits on what an uploader's choices may cost the reader of a file.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest segment, in bytes.
    pub segment_max: u64,
    /// Largest number of files to hold open. The first copy of each share comes first, then second copies, and so on.
    pub files_max: usize,
}

impl Default for Limits {
    /// [`SEGMENT_MAX_DEFAULT`], and enough files for two copies of every share of the widest code.
    fn default() -> Limits {
        Limits {
            segment_max: SEGMENT_MAX_DEFAULT,
            files_max: 512,
        }
    }
}

/// One verified share, open for reading.
#[derive(Debug)]
pub struct OpenShare {
    /// Its number, below n. The hash chain confirms it, except that it may be the sibling's in the share hash tree; the
    /// hash of any block decides between the two.
    pub number: u16,
    /// Index of its node in the list of nodes.
    pub node: usize,
    /// Its path.
    pub path: PathBuf,
    /// Open for reading.
    pub file: File,
    /// The offsets of its parts in the file.
    pub regions: Regions,
    /// The verified root of its block hash tree.
    pub block_root: Hash,
}

/// A file with at least k verified shares. Their blocks are not verified yet.
#[derive(Debug)]
pub struct OpenFile {
    /// Its cap. It is a secret, and `Debug` hides it.
    pub cap: ChkCap,
    /// Its layout.
    pub geometry: Geometry,
    /// The root of the ciphertext hash tree.
    pub ciphertext_root: Hash,
    /// Verified shares, sorted by number. A number may occur several times: the copies all count, since a verified
    /// share may still have damaged blocks.
    pub shares: Vec<OpenShare>,
    /// Files and nodes that are not used.
    pub rejected: Vec<Rejected>,
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No node has a file that may be a share.
    #[error(
        "no share of {storage_index} in any of the {nodes} nodes{}",
        list(notes)
    )]
    NotFound {
        /// Which file.
        storage_index: StorageIndex,
        /// The number of nodes searched.
        nodes: usize,
        /// Nodes that could not be searched.
        notes: Vec<String>,
    },
    /// Too few shares are verified.
    #[error(
        "{storage_index}: {have} good shares, {need} are needed{}",
        list(notes)
    )]
    TooFew {
        /// Which file.
        storage_index: StorageIndex,
        /// Verified shares of different numbers.
        have: usize,
        /// k.
        need: usize,
        /// The problems of the others.
        notes: Vec<String>,
    },
    /// The shares belong to the cap, but this reader does not accept how the file was made.
    #[error("{storage_index}: {reason}")]
    Refused {
        /// Which file.
        storage_index: StorageIndex,
        /// Why.
        reason: UebError,
    },
}

/// Opens the cap's file from the shares in `nodes`. Each node is given as its directory, its `storage` directory, or
/// its directory of shares. Files and nodes that are not used are logged, each with a warning.
pub fn open(nodes: &[PathBuf], cap: &ChkCap, limits: &Limits) -> Result<OpenFile, OpenError> {
    open_reporting(nodes, cap, limits, &|rejected| {
        let storage_index = cap.storage_index();
        tracing::warn!(%storage_index, node = rejected.node, "share not used: {rejected}");
    })
}

/// As [`open`], but without logging.
pub(super) fn open_quietly(
    nodes: &[PathBuf],
    cap: &ChkCap,
    limits: &Limits,
) -> Result<OpenFile, OpenError> {
    open_reporting(nodes, cap, limits, &|_| ())
}

fn open_reporting(
    nodes: &[PathBuf],
    cap: &ChkCap,
    limits: &Limits,
    tell: &dyn Fn(&Rejected),
) -> Result<OpenFile, OpenError> {
    let looks = nodes.iter().enumerate();
    let looks = looks.map(|(node, dir)| look(node, dir, cap, limits));
    assemble(looks.collect(), cap, limits, tell)
}

/// What one node has of a file.
#[derive(Debug)]
pub struct NodeLook {
    /// Verified shares.
    shares: Vec<OpenShare>,
    /// What all of them say of the file.
    ueb: Option<Ueb>,
    /// Why this reader does not accept how the file was made.
    refused: Option<UebError>,
    rejected: Vec<Rejected>,
    /// Whether it has a file that may be a share.
    found: bool,
    /// Whether it could be asked.
    here: bool,
}

impl NodeLook {
    /// Stands for a node that was given up: it hung, or was suspended.
    pub fn away(node: usize, dir: &Path, reason: io::Error) -> NodeLook {
        NodeLook {
            shares: Vec::new(),
            ueb: None,
            refused: None,
            rejected: vec![Rejected {
                node,
                path: dir.to_owned(),
                reason: reason.into(),
            }],
            found: false,
            here: false,
        }
    }

    /// Whether the node could be asked; its files may have problems of their own.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// What could not be used.
    pub fn problems(&self) -> &[Rejected] {
        &self.rejected
    }
}

/// Looks for the cap's file in one node, the `node`-th of the list, and verifies the shares that are there.
pub fn look(node: usize, dir: &Path, cap: &ChkCap, limits: &Limits) -> NodeLook {
    let (found, mut rejected) = nodes::candidates(std::slice::from_ref(&dir.to_owned()), cap);
    for rejected in &mut rejected {
        rejected.node = node;
    }
    // What is rejected by now is the node itself.
    let here = rejected.is_empty();
    let mut look = NodeLook {
        shares: Vec::new(),
        ueb: None,
        refused: None,
        rejected,
        found: !found.is_empty(),
        here,
    };
    for mut candidate in found {
        candidate.node = node;
        let opened = match look.shares.len() < limits.files_max {
            true => open_share(&candidate, cap, limits, &mut look.ueb),
            false => Err(RejectReason::TooMany {
                files_max: limits.files_max,
            }),
        };
        match opened {
            Ok(share) => look.shares.push(share),
            // All good shares have the same UEB, since the cap has its hash.
            Err(RejectReason::Ueb(reason)) if !reason.of_this_share_only() => {
                look.refused = Some(reason);
                break;
            }
            Err(reason) => {
                let Candidate { node, path, .. } = candidate;
                look.rejected.push(Rejected { node, path, reason });
            }
        }
    }
    look
}

/// Puts together what the nodes have of the cap's file. Files and nodes that are not used are told to `tell`.
///
/// # Errors
/// As [`open`].
pub fn assemble(
    looks: Vec<NodeLook>,
    cap: &ChkCap,
    limits: &Limits,
    tell: &dyn Fn(&Rejected),
) -> Result<OpenFile, OpenError> {
    let storage_index = cap.storage_index();
    let nodes = looks.len();
    let none_found = !looks.iter().any(|look| look.found);
    let (mut ueb, mut shares, mut rejected) = (None, Vec::new(), Vec::new());
    for look in looks {
        if let Some(reason) = look.refused {
            return Err(OpenError::Refused {
                storage_index,
                reason,
            });
        }
        ueb = ueb.or(look.ueb);
        shares.extend(look.shares);
        rejected.extend(look.rejected);
    }
    shares.sort_by_key(|share| (share.number, share.node));
    let mut shares = in_rounds(shares);
    for share in shares.drain(limits.files_max.min(shares.len())..) {
        rejected.push(Rejected {
            node: share.node,
            path: share.path,
            reason: RejectReason::TooMany {
                files_max: limits.files_max,
            },
        });
    }
    rejected.iter().for_each(tell);
    let notes = || rejected.iter().map(Rejected::to_string).collect();
    if none_found {
        return Err(OpenError::NotFound {
            storage_index,
            nodes,
            notes: notes(),
        });
    }
    let have = shares
        .iter()
        .map(|share| share.number)
        .collect::<HashSet<_>>()
        .len();
    let need = usize::from(cap.k());
    let Some(ueb) = ueb.filter(|_| have >= need) else {
        return Err(OpenError::TooFew {
            storage_index,
            have,
            need,
            notes: notes(),
        });
    };
    shares.sort_by_key(|share| (share.number, share.node));
    Ok(OpenFile {
        cap: cap.clone(),
        geometry: ueb.geometry,
        ciphertext_root: ueb.ciphertext_root,
        shares,
        rejected,
    })
}

/// Orders shares, which are sorted by number, in rounds: the first copy of each number, then the second copies, and so
/// on.
fn in_rounds(found: Vec<OpenShare>) -> Vec<OpenShare> {
    let (mut last, mut copy) = (None, 0);
    let mut ranked: Vec<(usize, OpenShare)> = Vec::with_capacity(found.len());
    for share in found {
        copy = if last == Some(share.number) {
            copy + 1
        } else {
            0
        };
        last = Some(share.number);
        ranked.push((copy, share));
    }
    ranked.sort_by_key(|(copy, _)| *copy); // stable: by number within
    ranked.into_iter().map(|(_, share)| share).collect()
}

/// Opens and verifies one candidate. `ueb` is the file's, once any share had it.
fn open_share(
    candidate: &Candidate,
    cap: &ChkCap,
    limits: &Limits,
    ueb: &mut Option<Ueb>,
) -> Result<OpenShare, RejectReason> {
    let (file, container) = open_container(&candidate.path)?;
    let (base, data_bytes) = (CONTAINER_HEADER_BYTES, container.data_bytes);
    let layout = read_layout(&file, &container)?;
    let length = read(&file, layout.ueb_length_range(base, data_bytes)?)?;
    let bytes = read(&file, layout.ueb_range(&length, base, data_bytes)?)?;
    let own = Ueb::check(&bytes, cap, limits.segment_max)?;
    let Ueb {
        geometry,
        share_root,
        ..
    } = *ueb.get_or_insert(own);
    let chain = read(&file, layout.chain_range(base, data_bytes)?)?;
    let block_root = verify_chain(&chain, geometry.share_tree(), candidate.number, &share_root)?;
    let regions = layout.regions(&geometry, base, data_bytes)?;
    let Candidate {
        number,
        node,
        ref path,
    } = *candidate;
    Ok(OpenShare {
        number,
        node,
        path: path.clone(),
        file,
        regions,
        block_root,
    })
}

/// Opens a share file and reads its container's header.
pub(super) fn open_container(path: &Path) -> Result<(File, Container), RejectReason> {
    let file = open_regular(path)?.ok_or(RejectReason::NotAFile)?;
    let len = file.metadata()?.len();
    let head = read(&file, 0..len.min(32))?;
    let container = Container::parse(&head, len)?;
    Ok((file, container))
}

/// Reads a share's offset table.
pub(super) fn read_layout(file: &File, container: &Container) -> Result<Layout, RejectReason> {
    let len = container.data_bytes.min(LAYOUT_BYTES_MAX as u64);
    let head = read(file, CONTAINER_HEADER_BYTES..CONTAINER_HEADER_BYTES + len)?;
    Ok(Layout::parse(&head)?)
}

/// Reads a short range. The format bounds its length.
pub(super) fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Formats notes for the end of a message: "; a; b".
fn list(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}

impl std::fmt::Display for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let geometry = &self.geometry;
        write!(
            f,
            "{}: {}, {} of {} shares, segments of {} bytes",
            self.cap.storage_index(),
            Size(geometry.size()),
            geometry.k(),
            geometry.n(),
            geometry.segment_bytes()
        )
    }
}
