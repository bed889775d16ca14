//! `penstock-faultproxy`: see the library.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use penstock_faultproxy::{Chance, FaultProxy, Faults};

/// Stands between clients and an HTTP server, and is late, slow, hangs, fails and lies as it is told, by a seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where clients connect
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The server
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Every answer comes so much later
    #[arg(long, value_name = "TIME", default_value = "0s")]
    latency: humantime::Duration,
    /// Bytes per second of every body
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<u64>,
    /// What goes wrong with answers to GETs, and how often: late=TIME, hang=BYTES, reset=BYTES, slowdown, short,
    /// wrong-range, wrong-bytes, whole or truncated, each with @PERCENT; repeat the option for several
    #[arg(long, value_name = "FAULT[@PERCENT]")]
    fault: Vec<Chance>,
    /// Where the order of faults begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let faults = Faults {
        latency: arguments.latency.into(),
        bandwidth: arguments.bandwidth,
        chances: arguments.fault,
    };
    let proxy = FaultProxy::start(arguments.listen, arguments.to, faults, arguments.seed)?;
    println!("listening on {}", proxy.address());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
