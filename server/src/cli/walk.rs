//! Options of the commands that read whole stores: how fast, how long, and where to go on.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use penstock::io::idle_io_priority;
use penstock_store::Walk;

/// How share files are read.
// The group of the arguments that are flattened into others, or are themselves, would have the same name.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Read at most so many bytes of share files per second, as 50MiB/s or 50MiB
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u64>,
    /// Run at the lowest priority: the processor's and the disk's when nobody else wants them (nice 19, the idle I/O class)
    #[arg(long)]
    low_priority: bool,
    /// Keep in this file where the walk over all objects is: the next run goes on there, also after this one was killed
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    cursor: Option<PathBuf>,
    /// End with the object during which this time is over, as 2h or 90min
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "name", value_parser = humantime::parse_duration)]
    time_max: Option<Duration>,
    /// End with the object in which so many bytes of share files have been read
    #[arg(long, value_name = "SIZE", conflicts_with = "name")]
    max_bytes: Option<ByteSize>,
    /// Write the result as metrics for Prometheus, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub(super) metrics_file: Option<PathBuf>,
}

impl Arguments {
    /// The walk; lowers the priority of this thread and those it starts.
    pub(super) fn walk(&self) -> Walk {
        if self.low_priority {
            if let Err(error) = rustix::process::nice(19) {
                tracing::warn!("cannot lower the priority: {error}");
            }
            if let Err(error) = idle_io_priority() {
                tracing::warn!("cannot lower the priority on disks: {error}");
            }
        }
        Walk {
            rate: self.rate,
            cursor: self.cursor.clone(),
            time_max: self.time_max,
            bytes_max: self.max_bytes.map(|size| size.as_u64()),
        }
    }

    /// Whether one of them was given.
    pub(super) fn any(&self) -> bool {
        let Arguments {
            rate,
            low_priority,
            cursor,
            time_max,
            max_bytes,
            metrics_file,
        } = self;
        *low_priority
            || rate.is_some()
            || time_max.is_some()
            || max_bytes.is_some()
            || cursor.as_ref().or(metrics_file.as_ref()).is_some()
    }
}

/// Reads a rate: a size, `/s` or not.
fn rate(text: &str) -> Result<u64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    let rate: ByteSize = size
        .trim_end()
        .parse()
        .map_err(|_| format!("{text:?} is not a rate like 50MiB/s"))?;
    match rate.as_u64() {
        0 => Err("at this rate nothing is read".to_owned()),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_per_second() {
        assert_eq!(rate("50MiB/s"), Ok(50 << 20));
        assert_eq!(rate("50MiB"), Ok(50 << 20));
        assert_eq!(rate("1000"), Ok(1000));
        for wrong in ["", "/s", "fast", "0", "0MiB/s", "50MiB/h"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
