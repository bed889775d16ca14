//! `penstock put`: stores a file or standard input as shares.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use decode_kernel::code::CodeKind;
use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::put::{self, Placement, PutOptions, SourceFile};

use super::Stores;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Data shares: as many as are needed to read
    #[arg(long, value_name = "K")]
    data: u16,
    /// Parity shares: as many as may be lost
    #[arg(long, value_name = "M")]
    parity: u16,
    /// The object's name [default: the file's name]
    #[arg(long, value_parser = super::key)]
    key: Option<Key>,
    /// Bytes of one block: how much of the file goes to one share at a time [default: 64KiB; less, down to
    /// 16KiB, with more than 5 data shares]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<ByteSize>,
    /// rs8 (up to 256 shares) or rs16 [default: what fits the number of shares]
    #[arg(long)]
    code: Option<CodeKind>,
    /// Media type [default: guessed from the key]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The file to store; `-` is standard input
    file: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stdin = arguments.file.as_os_str() == "-";
    let key = match (arguments.key, stdin) {
        (Some(key), _) => key,
        (None, true) => bail!("standard input has no name: give one with --key"),
        (None, false) => {
            let name = arguments
                .file
                .file_name()
                .context("the file has no name; use --key")?;
            let name = name
                .to_str()
                .context("the file's name is not UTF-8; use --key")?;
            Key::new(name).context("the file's name can't be a key; use --key")?
        }
    };
    let block_size = match arguments.block_size {
        None => put::default_block_bytes(arguments.data),
        Some(size) => {
            u32::try_from(size.0).with_context(|| format!("--block-size {size} is too large"))?
        }
    };
    let (mut source, size_hint): (Box<dyn Read>, _) = if stdin {
        (Box::new(io::stdin().lock()), None)
    } else {
        let name = arguments.file.display();
        let file = File::open(&arguments.file).with_context(|| format!("cannot open {name}"))?;
        let no_metadata = || format!("cannot read the metadata of {name}");
        let metadata = file.metadata().with_context(no_metadata)?;
        if metadata.is_dir() {
            bail!("{name} is a directory; put stores one file");
        }
        if metadata.is_file() {
            let source = SourceFile::new(file).with_context(no_metadata)?;
            let size = source.len();
            (Box::new(source), Some(size))
        } else {
            (Box::new(file), None)
        }
    };
    let options = PutOptions {
        stores: arguments.stores.stores,
        data: arguments.data,
        parity: arguments.parity,
        key,
        block_size,
        code: arguments.code,
        content_type: arguments.content_type,
        size_hint,
        min_shares: None,
        no_clobber: false,
        placement: Placement::Listed,
    };
    let report = put::put(&mut source, &options, &Progress::on_terminal("put"))?;
    say!("{report}");
    Ok(())
}
