//! What a plan can ever serve: objects whose code is too wide, or whose shares are too many, for the memory that was
//! declared are refused for good, which is said at start.

use std::fmt;

use decode_kernel::code::{Code, CodeKind};
use decode_kernel::share::{Geometry, Header};

use super::LookupError;
use crate::memory::costs::{DECODER_BYTES, RS16_BYTES};
use crate::memory::limits::{OBJECT_FILES_EXTRA, REBUILD_PLANS_MAX, TABLE_PAGE_BYTES};
use crate::memory::plan::{Declared, MemoryPlan};

/// What one core has for one object.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a pool buffer that a piece may use.
    pub piece_capacity: usize,
    /// Credit in all, of which half may go to a decoder.
    pub credit_bytes: u64,
    /// Share files that may be open.
    pub share_files: usize,
}

/// What an object takes, as far as that may be too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its code.
    pub kind: CodeKind,
    /// Data shares.
    pub k: u16,
    /// Shares.
    pub n: u16,
    /// Bytes of a leaf.
    pub leaf_bytes: u32,
    /// Its share files.
    pub files: usize,
}

impl Shape {
    /// That of an object with so many share files.
    pub fn of(header: &Header, files: usize) -> Shape {
        let geometry = &header.geometry;
        Shape {
            kind: header.code,
            k: geometry.k(),
            n: geometry.n(),
            leaf_bytes: geometry.leaf_bytes(),
            files,
        }
    }

    /// The least bytes of a pool buffer with which pieces of it can be made: one leaf of each of k shares and of one that
    /// is rebuilt, and the page that all buffers have.
    pub fn buffer_bytes(&self) -> usize {
        (usize::from(self.k) + 1) * self.leaf_bytes as usize + TABLE_PAGE_BYTES
    }

    /// What decoding it may take beyond a decoder's part of the plan.
    ///
    /// # Errors
    /// If there is no such code.
    pub fn decoder_bytes(&self, piece_capacity: usize) -> Result<u64, LookupError> {
        let (k, n) = (usize::from(self.k), usize::from(self.n));
        let code = Code::new(self.kind, k, n).map_err(|_| LookupError::CodeUnusable)?;
        Ok(decoder_bytes(&code, piece_capacity))
    }
}

/// What decoding may take beyond a decoder's part of the plan.
pub fn decoder_bytes(code: &Code, piece_capacity: usize) -> u64 {
    // What is rebuilt lies in one buffer with the k ranges, as long or longer, that it comes from.
    let range_bytes = piece_capacity / (code.k() + 1);
    let most = code.workspace_bytes_max(range_bytes, REBUILD_PLANS_MAX)
        + match code.kind() {
            CodeKind::Rs16 => RS16_BYTES,
            CodeKind::Rs8 => 0,
        };
    most.saturating_sub(DECODER_BYTES as usize) as u64
}

impl Bounds {
    /// Those of a plan.
    pub fn new(plan: &MemoryPlan) -> Bounds {
        Bounds {
            piece_capacity: plan.declared.pool_buffer_bytes - TABLE_PAGE_BYTES,
            credit_bytes: plan.credit_bytes,
            share_files: plan.declared.share_files,
        }
    }

    /// Why an object can never be served, if it can't.
    pub fn refusal(&self, shape: &Shape) -> Option<LookupError> {
        let needed_bytes = shape.buffer_bytes();
        if needed_bytes - TABLE_PAGE_BYTES > self.piece_capacity {
            return Some(LookupError::BufferTooSmall { needed_bytes });
        }
        match shape.decoder_bytes(self.piece_capacity) {
            Err(error) => return Some(error),
            Ok(bytes) if bytes > self.credit_bytes / 2 => {
                return Some(LookupError::TooWideForMemory);
            }
            Ok(_) => {}
        }
        let needed = shape.files + OBJECT_FILES_EXTRA;
        (needed > self.share_files).then_some(LookupError::TooManyFiles { needed })
    }
}

/// Shapes that a plan can't serve, all for one reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    kind: CodeKind,
    /// The fewest data shares, with half as many parity shares.
    least_k: u16,
    /// What would do for all of them.
    remedy: Remedy,
}

#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    PoolBuffer(usize),
    ShareFiles(usize),
    /// What decoding takes, and the least `--memory` with which that is to be had, if any would do.
    Memory {
        decoder_bytes: u64,
        memory_bytes: Option<u64>,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused {
            kind,
            least_k,
            remedy,
        } = self;
        let which = match least_k {
            1 => format!("no object of {kind}"),
            k => format!("no object of {kind} with {k} data shares or more"),
        };
        write!(f, "{which} can be served: ")?;
        match remedy {
            Remedy::PoolBuffer(bytes) => write!(
                f,
                "a pool buffer must hold a leaf of each; --pool-buffer-size {}KiB serves all",
                bytes.div_ceil(4096) * 4
            ),
            Remedy::ShareFiles(files) => write!(
                f,
                "it has more share files than may be open; --share-files {files} serves all"
            ),
            Remedy::Memory {
                decoder_bytes,
                memory_bytes,
            } => {
                let mib = decoder_bytes.div_ceil(1 << 20);
                write!(
                    f,
                    "decoding may take {mib} MiB, more than half of the credit; "
                )?;
                match memory_bytes {
                    Some(bytes) => {
                        write!(f, "--memory {}MiB serves all", bytes.div_ceil(1 << 20))
                    }
                    None => write!(f, "lower --max-connections, which leaves more credit"),
                }
            }
        }
    }
}

/// What a plan can't serve of the shapes that `put` makes when it is told no more than k and m, with half as many parity
/// shares as data shares.
pub fn refused(plan: &MemoryPlan) -> Vec<Refused> {
    let bounds = Bounds::new(plan);
    let mut all: Vec<Refused> = Vec::new();
    for (kind, shares_max) in [(CodeKind::Rs8, 256), (CodeKind::Rs16, 1024)] {
        for k in (1u16..).take_while(|k| k + (k / 2).max(1) <= shares_max) {
            let n = k + (k / 2).max(1);
            let shape = Shape {
                kind,
                k,
                n,
                leaf_bytes: Geometry::default_leaf_bytes(k),
                files: n.into(),
            };
            let remedy = match bounds.refusal(&shape) {
                Some(LookupError::BufferTooSmall { needed_bytes }) => {
                    Remedy::PoolBuffer(needed_bytes)
                }
                Some(LookupError::TooManyFiles { needed }) => Remedy::ShareFiles(needed),
                Some(LookupError::TooWideForMemory) => Remedy::Memory {
                    decoder_bytes: shape.decoder_bytes(bounds.piece_capacity).unwrap_or(0),
                    memory_bytes: None,
                },
                _ => continue,
            };
            let same = |refused: &&mut Refused| {
                let discriminant = std::mem::discriminant(&refused.remedy);
                refused.kind == kind && discriminant == std::mem::discriminant(&remedy)
            };
            match all.iter_mut().find(same) {
                Some(refused) => refused.remedy.raise(remedy),
                None => all.push(Refused {
                    kind,
                    least_k: k,
                    remedy,
                }),
            }
        }
    }
    for refused in &mut all {
        if let Remedy::Memory {
            decoder_bytes,
            memory_bytes,
        } = &mut refused.remedy
        {
            *memory_bytes = memory_for(plan.declared, *decoder_bytes);
        }
    }
    all
}

impl Remedy {
    /// Makes it do for another of the same kind, too.
    fn raise(&mut self, other: Remedy) {
        match (self, other) {
            (Remedy::PoolBuffer(bytes), Remedy::PoolBuffer(others))
            | (Remedy::ShareFiles(bytes), Remedy::ShareFiles(others)) => {
                *bytes = others.max(*bytes);
            }
            (
                Remedy::Memory { decoder_bytes, .. },
                Remedy::Memory {
                    decoder_bytes: others,
                    ..
                },
            ) => *decoder_bytes = others.max(*decoder_bytes),
            _ => {}
        }
    }
}

/// More memory than any machine has.
const MEMORY_MOST: u64 = 1 << 46;

/// The least memory with which a plan like this one has twice `decoder_bytes` of credit, in steps of an eighth.
fn memory_for(declared: Declared, decoder_bytes: u64) -> Option<u64> {
    let mut memory_bytes = declared.memory_bytes;
    while memory_bytes < MEMORY_MOST {
        memory_bytes = (memory_bytes + memory_bytes / 8).next_multiple_of(16 << 20);
        let plan = MemoryPlan::new(Declared {
            memory_bytes,
            ..declared
        });
        if plan.is_ok_and(|plan| plan.credit_bytes / 2 >= decoder_bytes) {
            return Some(memory_bytes);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{POOL_BUFFER_BYTES_DEFAULT, POOL_BUFFERS_DEFAULT};

    fn declared(memory_mib: u64) -> Declared {
        Declared {
            memory_bytes: memory_mib << 20,
            cores: 1,
            stores: 6,
            remote_stores: 0,
            fetches: 0,
            pool_buffers: POOL_BUFFERS_DEFAULT,
            pool_buffer_bytes: POOL_BUFFER_BYTES_DEFAULT,
            hot_bytes: None,
            rebuilt_bytes: None,
            readahead_bytes: None,
            share_files: 4096,
            gateway: false,
            access_log: false,
            tls: false,
            admin_tls: false,
            connections: Some(1000),
            descriptors_allow: usize::MAX,
            descriptors_own: 100,
        }
    }

    /// Story: with `--memory 128MiB` every object of rs16 was answered 503 with Retry-After, for ever, and nothing said
    /// so before the first request.
    #[test]
    fn what_a_small_plan_cannot_serve_is_named_with_what_serves_it() {
        let plan = MemoryPlan::new(declared(64)).unwrap();
        let found = refused(&plan);
        // Wide codes of rs8, and all of rs16.
        let [narrow, only] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(narrow.kind, CodeKind::Rs8);
        assert!((10..170).contains(&narrow.least_k), "{narrow:?}");
        assert_eq!((only.kind, only.least_k), (CodeKind::Rs16, 1));
        let Remedy::Memory {
            memory_bytes: Some(enough),
            ..
        } = only.remedy
        else {
            panic!("{only:?}");
        };
        let text = only.to_string();
        assert!(text.starts_with("no object of rs16 can be served: decoding may take "));
        assert!(text.ends_with(&format!("--memory {}MiB serves all", enough >> 20)));
        let enough = Declared {
            memory_bytes: enough,
            ..declared(0)
        };
        assert_eq!(refused(&MemoryPlan::new(enough).unwrap()), []);
    }

    #[test]
    fn small_buffers_and_few_files_are_named_too() {
        let plan = MemoryPlan::new(Declared {
            pool_buffer_bytes: 64 << 10,
            share_files: 64,
            ..declared(1024)
        });
        let texts: Vec<String> = refused(&plan.unwrap())
            .iter()
            .map(Refused::to_string)
            .collect();
        let all = texts.join("\n");
        assert!(all.contains("no object of rs8 with 15 data shares or more"));
        assert!(all.contains("--pool-buffer-size 5"), "{all}");
        let few = MemoryPlan::new(Declared {
            share_files: 64,
            ..declared(1024)
        });
        let few = refused(&few.unwrap());
        let text = few[0].to_string();
        assert!(
            text.contains("rs8 with 42 data shares or more") && text.contains("--share-files 258"),
            "{text}"
        );
    }

    #[test]
    fn what_is_refused_is_what_the_bounds_refuse() {
        let bounds = Bounds::new(&MemoryPlan::new(declared(1024)).unwrap());
        let shape = |k, n, leaf_bytes| Shape {
            kind: CodeKind::Rs8,
            k,
            n,
            leaf_bytes,
            files: n.into(),
        };
        assert_eq!(bounds.refusal(&shape(4, 6, 4096)), None);
        assert_eq!(
            bounds.refusal(&shape(100, 130, 64 << 10)),
            Some(LookupError::BufferTooSmall {
                needed_bytes: 101 * (64 << 10) + TABLE_PAGE_BYTES
            })
        );
        assert_eq!(
            bounds.refusal(&shape(100, 300, 4096)),
            Some(LookupError::CodeUnusable)
        );
        let many = Shape {
            files: 5000,
            ..shape(4, 6, 4096)
        };
        assert_eq!(
            bounds.refusal(&many),
            Some(LookupError::TooManyFiles { needed: 5002 })
        );
    }
}
