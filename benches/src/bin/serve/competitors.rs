//! The competitors: nginx in two configurations; penstock on each backend, healthy, degraded, and degraded without a
//! rebuilt-block cache; and SeaweedFS, if it is installed.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::nginx;

use super::Built;
use super::measure::Asked;
use super::seaweed::{self, Stored};

/// A server that can be started several times.
pub(super) struct Competitor {
    /// The name in the record.
    pub(super) name: String,
    kind: Kind,
    /// Its standard error, and for nginx its configuration and files.
    directory: PathBuf,
}

enum Kind {
    /// The program, its root, and options of its `listen` line.
    Nginx(PathBuf, PathBuf, &'static str),
    /// The whole command line.
    Penstock(Vec<String>),
    /// Its stored objects, and the copy of them to serve.
    Seaweed(Rc<Stored>, PathBuf),
}

const NGINX: &str = "nginx";
const SEAWEED: &str = "seaweedfs";

/// All competitors, nginx first.
pub(super) fn all(
    programs: &[launch::Program],
    serve_args: &str,
    directory: &Path,
    built: &Built,
    stored: Option<Stored>,
) -> anyhow::Result<Vec<Competitor>> {
    let mut all = Vec::new();
    let mut add = |name: String, kind: Kind| -> anyhow::Result<()> {
        let directory = directory.join("servers").join(name.replace(' ', "-"));
        std::fs::create_dir_all(&directory)?;
        all.push(Competitor {
            name,
            kind,
            directory,
        });
        Ok(())
    };
    match nginx::find() {
        Some((program, version)) => {
            println!("nginx: {version}");
            for (name, listen) in [("nginx large", ""), ("nginx sndbuf=64k", " sndbuf=64k")] {
                let kind = Kind::Nginx(program.clone(), built.plain.clone(), listen);
                add(name.to_owned(), kind)?;
            }
        }
        None => println!("nginx: skipped, not installed; there will be no ratios"),
    }
    for ([k, m], coded) in &built.coded {
        for (state, stores) in [("", &coded.stores[..]), (" degraded", coded.degraded())] {
            for backend in ["uring", "epoll"] {
                for launch::Program { name, path } in programs {
                    let command = launch::serve_command(path, backend, stores, serve_args);
                    add(
                        format!("penstock{name} {k}+{m}{state} {backend}"),
                        Kind::Penstock(command),
                    )?;
                }
            }
        }
        // All clients read the same object, so this shows how much work they save each other.
        let alone = format!("{serve_args} --rebuilt-blocks 0");
        for launch::Program { name, path } in programs {
            let command = launch::serve_command(path, "uring", coded.degraded(), &alone);
            add(
                format!("penstock{name} {k}+{m} degraded unshared uring"),
                Kind::Penstock(command),
            )?;
        }
    }
    if let Some(stored) = stored.map(Rc::new) {
        for (state, copy) in [("", &stored.healthy), (" degraded", &stored.degraded)] {
            let kind = Kind::Seaweed(Rc::clone(&stored), copy.clone());
            add(format!("{SEAWEED} 10+4{state}"), kind)?;
        }
    }
    Ok(all)
}

impl Competitor {
    /// Whether ratios are relative to this one.
    pub(super) fn is_nginx(&self) -> bool {
        is_nginx(&self.name)
    }

    /// The objects that it serves: its own, or those that all others serve.
    pub(super) fn objects<'a>(&'a self, built: &'a Built) -> &'a [(String, String)] {
        match &self.kind {
            Kind::Seaweed(stored, _) => &stored.objects,
            _ => &built.objects,
        }
    }

    /// The request for it in place of `asked`; `None` if it does not take part. SeaweedFS takes part only with large
    /// objects.
    pub(super) fn asked(&self, large: bool, asked: &Asked) -> Option<Asked> {
        match &self.kind {
            Kind::Seaweed(stored, _) => large.then(|| Asked {
                path: stored.pattern(),
                bytes: seaweed::OBJECT_BYTES,
                ..*asked
            }),
            _ => Some(asked.clone()),
        }
    }

    /// Starts it on a core.
    pub(super) fn start(&self, core: usize) -> anyhow::Result<Server> {
        let log = self.directory.join("log");
        match &self.kind {
            Kind::Penstock(command) => Server::start(core, command, &log),
            Kind::Seaweed(stored, copy) => stored.start(copy, core, &log),
            Kind::Nginx(program, root, listen) => {
                nginx::start(program, root, (listen, ""), &self.directory, core)
            }
        }
    }
}

/// Whether a competitor of this name is nginx.
pub(super) fn is_nginx(name: &str) -> bool {
    name.starts_with(NGINX)
}

/// Whether a competitor of this name is SeaweedFS.
pub(super) fn is_seaweed(name: &str) -> bool {
    name.starts_with(SEAWEED)
}
