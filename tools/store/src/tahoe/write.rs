//! A writer of Tahoe-LAFS share files, for tests and benchmarks. It writes the same bytes as Tahoe's own uploader,
//! apart from leases, and on request the bytes that a lying uploader could write. It is no upload: it does not sync, it
//! does not choose servers, and files should not be kept this way.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::aes::Aes128Ctr;
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{
    BLOCK_TAG, CONTAINER_HEADER_BYTES, ChkCap, Geometry, Hash, LEASE_BYTES, NODE_BYTES,
    SEGMENT_TAG, StorageIndex, Tree, empty_leaf, pair, ueb_hash,
};

use crate::error::{During, FileError};

/// The tag hashed before the whole ciphertext in `crypttext_hash`.
const CIPHERTEXT_TAG: &[u8] = b"22:allmydata_crypttext_v1,";
/// Bytes of each share that are written at once.
const STRIP_BYTES: u64 = 32 << 10;

/// Entries of a UEB, in order.
pub type Entries = Vec<(String, Vec<u8>)>;

/// Changes bytes of a block. Arguments: share number, segment, offset in the block, the bytes.
pub type EditBlock<'a> = &'a dyn Fn(u16, u64, u64, &mut [u8]);

/// How to make a file's shares.
pub struct Upload<'a> {
    /// The key.
    pub key: [u8; 16],
    /// Shares needed.
    pub k: u16,
    /// Shares in all.
    pub n: u16,
    /// Segment length in bytes, a multiple of k. Tahoe chooses [`segment_bytes`].
    pub segment_bytes: u64,
    /// Version of the container, 1 or 2.
    pub container: u32,
    /// Version of the layout, 1 or 2.
    pub layout: u32,
    /// Leases at the end of each file.
    pub leases: u32,
    /// A lying uploader's change to the UEB before it is hashed.
    pub edit_ueb: Option<&'a dyn Fn(&mut Entries)>,
    /// A lying uploader's change to blocks before they are hashed.
    pub edit_block: Option<EditBlock<'a>>,
}

impl Default for Upload<'_> {
    /// 3 of 10 in segments of about 1 MiB, in the current container version, with one lease.
    fn default() -> Self {
        Upload {
            key: *b"a key for tests.",
            k: 3,
            n: 10,
            segment_bytes: 1_048_578,
            container: 2,
            layout: 1,
            leases: 1,
            edit_ueb: None,
            edit_block: None,
        }
    }
}

/// The segment length that Tahoe chooses for a file, in bytes: `max` is 131072 in old releases and
/// 1048576 in new ones.
pub fn segment_bytes(max: u64, size: u64, k: u16) -> u64 {
    max.min(size).next_multiple_of(k.into())
}

/// Places share i on node i, and starts over after the last node. Creates directories.
pub fn on_nodes(nodes: &[PathBuf]) -> impl Fn(StorageIndex, u16) -> Option<PathBuf> + '_ {
    |storage_index, number| {
        let node = &nodes[usize::from(number) % nodes.len()];
        let dir = node.join("storage/shares").join(storage_index.dir());
        Some(dir.join(number.to_string()))
    }
}

/// The content in `bytes`, for [`Upload::write`].
pub fn content(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) + '_ {
    |at, out| out.copy_from_slice(&bytes[at as usize..][..out.len()])
}

/// A share being written.
struct Share {
    file: File,
    path: PathBuf,
}

impl Share {
    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.file
            .write_all_at(bytes, CONTAINER_HEADER_BYTES + at)
            .during("write", &self.path)
    }
}

/// Offsets in the share data, as the layout's table has them.
struct Offsets {
    data: u64,
    plaintext_tree: u64,
    ciphertext_tree: u64,
    block_tree: u64,
    chain: u64,
    ueb: u64,
}

impl Upload<'_> {
    /// Writes the shares of a file of `size` bytes and returns its cap. `content` fills a buffer from any offset of the
    /// file. `place` returns the path of each share; shares without a path are not written. The memory it takes is one
    /// hash for each block.
    ///
    /// # Panics
    /// If no file can have these k, n, size and segment length.
    pub fn write(
        &self,
        size: u64,
        content: &dyn Fn(u64, &mut [u8]),
        place: &dyn Fn(StorageIndex, u16) -> Option<PathBuf>,
    ) -> Result<ChkCap, FileError> {
        let geometry = Geometry::new(self.k, self.n, size, self.segment_bytes, u64::MAX)
            .expect("a geometry to test with");
        let cap = self.cap(Hash::default(), size);
        let shares: Vec<Option<Share>> = (0..self.n)
            .map(|number| place(cap.storage_index(), number).map(create).transpose())
            .collect::<Result<_, _>>()?;

        let offsets = self.offsets(&geometry);
        let mut block_hashes: Vec<Vec<Hash>> = vec![Vec::new(); self.n.into()];
        let mut segment_hashes = Vec::new();
        let mut whole = Lanes::new(1);
        whole.restart(1, CIPHERTEXT_TAG);
        let mut encoder = Encoder::new(self, content);
        for segment in 0..geometry.segments() {
            segment_hashes.push(encoder.hash_segment(&geometry, segment, &mut whole));
            let hashes = encoder.write_blocks(&geometry, segment, &shares, offsets.data)?;
            block_hashes
                .iter_mut()
                .zip(hashes)
                .for_each(|(hashes, hash)| hashes.push(hash));
        }
        let mut flat = [Hash::default()];
        whole.finish(&mut flat);

        let ciphertext_tree = nodes(&segment_hashes);
        let block_trees: Vec<Vec<Hash>> = block_hashes.iter().map(|hashes| nodes(hashes)).collect();
        let roots: Vec<Hash> = block_trees.iter().map(|tree| tree[0]).collect();
        let share_tree = nodes(&roots);
        let mut entries = entries(&geometry, flat[0], ciphertext_tree[0], share_tree[0]);
        if let Some(edit) = self.edit_ueb {
            edit(&mut entries);
        }
        let ueb = encode(&entries);
        for (number, share) in shares.iter().enumerate() {
            let Some(share) = share else { continue };
            share.put(0, &self.table(&geometry, &offsets))?;
            share.put(offsets.ciphertext_tree, ciphertext_tree.as_flattened())?;
            share.put(offsets.block_tree, block_trees[number].as_flattened())?;
            share.put(
                offsets.chain,
                &chain(geometry.share_tree(), number as u64, &share_tree),
            )?;
            let length = match self.layout {
                1 => (ueb.len() as u32).to_be_bytes().to_vec(),
                _ => (ueb.len() as u64).to_be_bytes().to_vec(),
            };
            share.put(offsets.ueb, &[&length[..], &ueb].concat())?;
            let end = offsets.ueb + (length.len() + ueb.len()) as u64;
            self.write_container(share, end)?;
        }
        Ok(self.cap(ueb_hash(&ueb), size))
    }

    fn cap(&self, ueb_hash: Hash, size: u64) -> ChkCap {
        ChkCap::new(self.key, ueb_hash, self.k.into(), self.n.into(), size).expect("good numbers")
    }

    fn offsets(&self, geometry: &Geometry) -> Offsets {
        let tree_bytes = geometry.tree().nodes() * NODE_BYTES;
        let chain_bytes = (u64::from(geometry.share_tree().height()) + 1) * 34;
        let data = if self.layout == 1 { 0x24 } else { 0x44 };
        let plaintext_tree = data + geometry.share_data_bytes();
        let chain = plaintext_tree + 3 * tree_bytes;
        Offsets {
            data,
            plaintext_tree,
            ciphertext_tree: plaintext_tree + tree_bytes,
            block_tree: plaintext_tree + 2 * tree_bytes,
            chain,
            ueb: chain + chain_bytes,
        }
    }

    fn table(&self, geometry: &Geometry, offsets: &Offsets) -> Vec<u8> {
        let mut table = self.layout.to_be_bytes().to_vec();
        for field in [
            geometry.block_bytes(),
            geometry.share_data_bytes(),
            offsets.data,
            offsets.plaintext_tree,
            offsets.ciphertext_tree,
            offsets.block_tree,
            offsets.chain,
            offsets.ueb,
        ] {
            match self.layout {
                1 => table.extend((field as u32).to_be_bytes()),
                _ => table.extend(field.to_be_bytes()),
            }
        }
        table
    }

    /// Writes the container around share data that end at `end`.
    fn write_container(&self, share: &Share, end: u64) -> Result<(), FileError> {
        let stated = u32::try_from(end).unwrap_or(u32::MAX);
        let head: Vec<u8> = [self.container, stated, self.leases]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        share
            .file
            .write_all_at(&head, 0)
            .during("write", &share.path)?;
        for lease in 0..u64::from(self.leases) {
            share.put(
                end + lease * LEASE_BYTES,
                &[lease as u8 + 1; LEASE_BYTES as usize],
            )?;
        }
        Ok(())
    }
}

fn create(path: PathBuf) -> Result<Share, FileError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).during("create the directory", dir)?;
    let file = File::create(&path).during("create", &path)?;
    Ok(Share { file, path })
}

/// Encrypts, encodes and hashes, strip by strip.
struct Encoder<'a> {
    upload: &'a Upload<'a>,
    content: &'a dyn Fn(u64, &mut [u8]),
    cipher: Aes128Ctr,
    code: Code,
    coder: Coder,
    lanes: Lanes,
    segment: Lanes,
}

impl<'a> Encoder<'a> {
    fn new(upload: &'a Upload<'a>, content: &'a dyn Fn(u64, &mut [u8])) -> Encoder<'a> {
        let (k, n) = (upload.k.into(), upload.n.into());
        Encoder {
            upload,
            content,
            cipher: Aes128Ctr::new(&upload.key),
            code: Code::new(CodeKind::Rs8, k, n).expect("a code to test with"),
            coder: Coder::new(1),
            lanes: Lanes::new(n),
            segment: Lanes::new(1),
        }
    }

    /// Fills `out` with the file's ciphertext from `at` on, and zeros after its end.
    fn ciphertext(&self, at: u64, end: u64, out: &mut [u8]) {
        let len = end.saturating_sub(at).min(out.len() as u64) as usize;
        let (bytes, padding) = out.split_at_mut(len);
        padding.fill(0);
        if len > 0 {
            (self.content)(at, bytes);
            self.cipher.apply(at, bytes);
        }
    }

    /// The hash of one segment's ciphertext. Adds the ciphertext to the hash `whole`.
    fn hash_segment(&mut self, geometry: &Geometry, segment: u64, whole: &mut Lanes) -> Hash {
        let range = geometry.segment_range(segment);
        let mut strip = vec![0; STRIP_BYTES as usize];
        self.segment.restart(1, SEGMENT_TAG);
        for at in range.clone().step_by(STRIP_BYTES as usize) {
            let strip = &mut strip[..STRIP_BYTES.min(range.end - at) as usize];
            self.ciphertext(at, range.end, strip);
            self.segment.update(&[strip]);
            whole.update(&[strip]);
        }
        let mut hash = [Hash::default()];
        self.segment.finish(&mut hash);
        hash[0]
    }

    /// Writes one segment's blocks and returns their hashes.
    fn write_blocks(
        &mut self,
        geometry: &Geometry,
        segment: u64,
        shares: &[Option<Share>],
        data: u64,
    ) -> Result<Vec<Hash>, FileError> {
        let (k, n) = (self.code.k(), self.code.n());
        let range = geometry.segment_range(segment);
        let block = geometry.block_range(segment);
        let block_len = geometry.block_len(segment);
        self.lanes.restart(n, BLOCK_TAG);
        for at in (0..block_len).step_by(STRIP_BYTES as usize) {
            let len = STRIP_BYTES.min(block_len - at) as usize;
            let mut strips = vec![vec![0; len]; n];
            for (number, strip) in strips[..k].iter_mut().enumerate() {
                self.ciphertext(
                    range.start + number as u64 * block_len + at,
                    range.end,
                    strip,
                );
            }
            let (primary, parity) = strips.split_at_mut(k);
            let primary: Vec<&[u8]> = primary.iter().map(Vec::as_slice).collect();
            let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            self.coder
                .encode(&self.code, &primary, &mut parity)
                .expect("strips of one length");
            if let Some(edit) = self.upload.edit_block {
                for (number, strip) in strips.iter_mut().enumerate() {
                    edit(number as u16, segment, at, strip);
                }
            }
            let inputs: Vec<&[u8]> = strips.iter().map(Vec::as_slice).collect();
            self.lanes.update(&inputs);
            for (share, strip) in shares.iter().zip(&strips) {
                if let Some(share) = share {
                    share.put(data + block.start + at, strip)?;
                }
            }
        }
        let mut hashes = vec![Hash::default(); n];
        self.lanes.finish(&mut hashes);
        Ok(hashes)
    }
}

/// The nodes of the tree over `leaves`.
fn nodes(leaves: &[Hash]) -> Vec<Hash> {
    let tree = Tree::for_leaves(leaves.len() as u64).expect("as many leaves as memory holds");
    let first = tree.leaf_node(0) as usize;
    let mut nodes = vec![Hash::default(); tree.nodes() as usize];
    for leaf in 0..tree.leaves() {
        let hash = leaves.get(leaf as usize).copied();
        nodes[first + leaf as usize] = hash.unwrap_or_else(|| empty_leaf(leaf));
    }
    for node in (0..first).rev() {
        nodes[node] = pair(&nodes[2 * node + 1], &nodes[2 * node + 2]);
    }
    nodes
}

/// The share hash chain of share `number`, its nodes in ascending order.
fn chain(tree: Tree, number: u64, share_tree: &[Hash]) -> Vec<u8> {
    let mut numbers: Vec<u64> = tree
        .siblings(number)
        .chain([tree.leaf_node(number)])
        .collect();
    numbers.sort_unstable();
    let entry = |node: u64| [&(node as u16).to_be_bytes()[..], &share_tree[node as usize]].concat();
    numbers.into_iter().flat_map(entry).collect()
}

/// The entries of a truthful UEB.
fn entries(geometry: &Geometry, flat: Hash, ciphertext_root: Hash, share_root: Hash) -> Entries {
    let (k, n, segment) = (geometry.k(), geometry.n(), geometry.segment_bytes());
    let padded_tail = geometry.tail_block_bytes() * u64::from(k);
    let number = |value: u64| value.to_string().into_bytes();
    [
        ("codec_name", b"crs".to_vec()),
        ("codec_params", format!("{segment}-{k}-{n}").into_bytes()),
        ("crypttext_hash", flat.to_vec()),
        ("crypttext_root_hash", ciphertext_root.to_vec()),
        ("needed_shares", number(k.into())),
        ("num_segments", number(geometry.segments())),
        ("segment_size", number(segment)),
        ("share_root_hash", share_root.to_vec()),
        ("size", number(geometry.size())),
        (
            "tail_codec_params",
            format!("{padded_tail}-{k}-{n}").into_bytes(),
        ),
        ("total_shares", number(n.into())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn encode(entries: &Entries) -> Vec<u8> {
    let entry = |(key, value): &(String, Vec<u8>)| {
        [format!("{key}:{}:", value.len()).as_bytes(), value, b","].concat()
    };
    entries.iter().flat_map(entry).collect()
}
