//! `penstock demo`: serves a store that has lost as many disks, or buckets, as its parity allows.

mod weed;

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use decode_kernel::share::{Digest, Key};
use penstock::config::address::Address;
use penstock::config::{ConfigError, Options, Settings};
use penstock::control;
use penstock_store::put::{self, Placement, PutOptions};
use penstock_store::{NewStore, Store};

use super::stores;
use super::talk::Talk;
use weed::Weed;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to build the store; it is kept [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to serve it [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Address>,
    /// Keep the shares in six buckets of a SeaweedFS that is started for it, and two of them are removed; its command,
    /// `weed`, must be in the path
    #[arg(long)]
    s3: bool,
}

const DATA: u16 = 4;
const PARITY: u16 = 2;
/// Two data shares: their blocks must be rebuilt from parity.
const LOST: [usize; 2] = [0, 2];
const OBJECT: &str = "demo.bin";
const OBJECT_BYTES: u64 = 64 << 20;

pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<()> {
    if arguments.s3 {
        weed::with_keys()?;
    }
    let temporary;
    let dir = match arguments.dir {
        Some(dir) => dir,
        None => {
            temporary = tempfile::Builder::new()
                .prefix("penstock-demo-")
                .tempdir()?;
            temporary.path().to_owned()
        }
    };
    let names: Vec<String> = (0..DATA + PARITY).map(|i| format!("disk{i}")).collect();
    let weed = match arguments.s3 {
        true => Some(Weed::start(&dir.join("weed"), &names)?),
        false => None,
    };
    let place = |name: &String| match &weed {
        Some(weed) => weed.url(name).into(),
        None => dir.join(name),
    };
    let paths: Vec<PathBuf> = names.iter().map(place).collect();
    fs::create_dir_all(&dir)?;
    let digest = stores::open_named(&paths)
        .and_then(|stores| build(stores, talk))
        .with_context(|| format!("building a store in {}", dir.display()))?;
    for lost in LOST {
        match &weed {
            Some(weed) => weed.remove(&names[lost])?,
            None => fs::remove_dir_all(paths[lost].join("objects"))?,
        }
    }

    let mut options = Options {
        store: paths,
        cache: weed.is_some().then(|| dir.join("cache")),
        listen: arguments.listen,
        admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()),
        ..Options::default()
    };
    super::serve::with_talk(&mut options, talk);
    let load = || {
        let settings = Settings::new(options.clone(), super::serve::cores());
        settings.map_err(ConfigError::Option)
    };
    control::serve(load()?, load, |addresses| {
        let url = format!("http://{}/{OBJECT}", addresses.objects);
        say!();
        say!(
            "  {} MiB in {DATA}+{PARITY} shares; {} of 6 {} lost",
            OBJECT_BYTES >> 20,
            LOST.len(),
            if weed.is_some() { "buckets" } else { "disks" }
        );
        say!("  store   {}", dir.display());
        say!("  url     {url}");
        say!("  sha256  {digest}");
        say!();
        say!("  curl -o {OBJECT} {url} && sha256sum {OBJECT}");
        say!(
            "  curl -s http://{}/metrics | grep rebuilt",
            addresses.admin
        );
        say!();
        super::serve::announce(addresses);
    })?;
    Ok(())
}

fn build(stores: Vec<Store>, talk: Talk) -> anyhow::Result<Digest> {
    let new = stores.iter().map(|store| NewStore {
        store: store.clone(),
        domain: None,
    });
    penstock_store::init(&new.collect::<Vec<_>>(), false)?;
    let options = PutOptions {
        stores,
        data: DATA,
        parity: PARITY,
        key: Key::new(OBJECT)?,
        block_size: put::default_block_bytes(DATA),
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: Some(OBJECT_BYTES),
        min_shares: None,
        no_clobber: false,
        placement: Placement::Listed,
    };
    let mut content = Generated { state: 1 }.take(OBJECT_BYTES);
    let report = put::put(&mut content, &options, &talk.progress("building", false))?;
    Ok(report.header.digest)
}

/// The same incompressible bytes every time (SplitMix64, Steele and others, OOPSLA 2014).
struct Generated {
    state: u64,
}

impl Read for Generated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whole words, so that the content does not depend on how it is read.
        let whole = buffer.len() / 8 * 8;
        let buffer = match whole {
            0 => return Err(io::ErrorKind::InvalidInput.into()),
            whole => &mut buffer[..whole],
        };
        for word in buffer.chunks_exact_mut(8) {
            self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        Ok(whole)
    }
}
