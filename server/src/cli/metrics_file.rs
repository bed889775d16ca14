//! The result of a run in the Prometheus text format, in a file that node_exporter's textfile collector reads.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tempfile::NamedTempFile;

/// The metrics of one run. All are gauges: each run replaces the last one's.
pub(super) struct MetricsFile {
    registry: Registry,
    started: Instant,
}

impl MetricsFile {
    /// Of a run of this command, which starts now.
    pub(super) fn start(command: &str) -> MetricsFile {
        MetricsFile {
            registry: Registry::with_prefix(format!("penstock_{command}")),
            started: Instant::now(),
        }
    }

    /// Whether the file can be written, which is better known before a run of some hours than after it.
    pub(super) fn try_out(path: Option<&Path>) -> anyhow::Result<()> {
        path.map_or(Ok(()), |path| {
            temporary(path).map(drop).with_context(|| unwritten(path))
        })
    }

    /// Adds a number.
    pub(super) fn add(&mut self, name: &str, help: &str, value: u64) {
        self.add_float(name, help, value as f64);
    }

    fn add_float(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.registry.register(name, help, gauge);
    }

    /// Adds numbers that a label tells apart.
    pub(super) fn add_by(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        let family = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
        for (text, value) in values {
            let labels = vec![(label.to_owned(), (*text).to_owned())];
            family.get_or_create(&labels).set(*value as f64);
        }
        self.registry.register(name, help, family);
    }

    /// Adds when the run ended, how long it took and its exit status, and replaces the file in one step.
    pub(super) fn write(mut self, path: &Path, exit_status: u8) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64().floor();
        let took = self.started.elapsed().as_secs_f64();
        self.add_float(
            "last_run_timestamp_seconds",
            "When the last run ended, in seconds since 1970",
            now,
        );
        self.add_float("duration_seconds", "How long the last run took", took);
        let help = "Exit status of the last run, as --help explains it";
        self.add("exit_status", help, exit_status.into());
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes everything");
        replace(path, &text).with_context(|| unwritten(path))
    }
}

fn unwritten(path: &Path) -> String {
    format!("cannot write the metrics file {}", path.display())
}

/// A collector that reads meanwhile sees the old file or the new one. The temporary name is none that it reads.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = temporary(path)?;
    file.as_file_mut().write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// A file that may take the place of this one.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".penstock-metrics-")
        .suffix(".part")
        // The collector runs as another user.
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(penstock_store::without_temporary_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verify.prom");
        std::fs::write(&path, "old").unwrap();
        let mut metrics = MetricsFile::start("verify");
        metrics.add("bad_leaves", "Leaves that were bad", 7);
        let values = [("healthy", 3), ("damaged", 0)];
        metrics.add_by("objects", "Objects by health", "health", &values);
        metrics.write(&path, 1).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in [
            "# TYPE penstock_verify_bad_leaves gauge",
            "penstock_verify_bad_leaves 7.0",
            "penstock_verify_objects{health=\"healthy\"} 3.0",
            "penstock_verify_objects{health=\"damaged\"} 0.0",
            "penstock_verify_exit_status 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o444, 0o444);
        let nowhere = dir.path().join("no/verify.prom");
        assert!(MetricsFile::start("verify").write(&nowhere, 0).is_err());
        // After a scrub of hours nobody wants to hear of it.
        assert!(MetricsFile::try_out(Some(&nowhere)).is_err());
        MetricsFile::try_out(Some(&path)).unwrap();
        MetricsFile::try_out(None).unwrap();
    }
}
