//! Files larger than the memory that put and serve may use. The kernel enforces the bound: by RLIMIT_DATA, which counts
//! all private writable memory, and by a memory cgroup, where this machine allows one, which counts page cache and
//! socket buffers too.

mod common;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::stores::header;
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, penstock, run, skip, together,
};

on_both_backends! {
    more_than_the_data_limit
    more_than_the_cgroup
}

/// The memory of a process. Threads' stacks count as a whole, used or not.
const LIMIT_BYTES: u64 = 64 << 20;
const SIZE: u64 = 3 * LIMIT_BYTES + 12_345;
const CLIENTS: usize = 2;

/// The command as a child of a shell that runs `prelude` first (shell text; `$0` is `argument`).
fn through_shell(command: &Command, prelude: &str, argument: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.env_remove("RUST_LOG");
    shell.args(["-c", &format!("{prelude} && exec \"$@\""), argument]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn put_command(stores: &Stores) -> Command {
    let mut put = penstock();
    put.arg("put")
        .args(stores.flags())
        .args(["--data", "4", "--parity", "2", "--key", KEY, "-"]);
    put
}

/// Puts the object from standard input, whose length put does not know.
fn put_through_pipe(mut put: Command, noise: &Noise) {
    put.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = put.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // If put ends early, its own message is better than "broken pipe".
    let copied = io::copy(&mut noise.reader(SIZE), &mut pipe).and_then(|_| pipe.flush());
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "put: {}\n{errors}", output.status);
    copied.unwrap();
}

/// Several clients download the whole object at once: first with all stores, then without two data shares.
fn download(stores: &Stores, server: &Server, noise: &Noise) {
    // Which stores have them is the key's choice.
    let number = |store: &usize| header(&stores.share(KEY, *store)).number;
    let with_data: Vec<usize> = (0..6).filter(|store| number(store) < 4).take(2).collect();
    for lost in [&[][..], &with_data] {
        for store in lost {
            stores.truncate(KEY, *store, 5000);
        }
        together(CLIENTS, |_| {
            let mut client = Client::connect(server.objects);
            client.ask("GET", PATH, &[]);
            let head = client.head();
            assert_eq!((head.status, head.length()), (200, SIZE));
            let mut at = 0;
            while at < SIZE {
                let part = (SIZE - at).min(1 << 20);
                let wanted = noise.range(at..at + part);
                assert_same(&client.body(part as usize), &wanted, "a part of the object");
                at += part;
            }
        });
    }
    assert!(server.total("rebuilt_bytes") > 0);
}

fn more_than_the_data_limit(io: Backend) {
    let stores = Stores::on_disk(6);
    let noise = Noise::new(8);
    let limit = (LIMIT_BYTES >> 10).to_string();
    let bounded = |command: &Command| through_shell(command, "ulimit -d \"$0\"", &limit);
    // A pool larger than the bound must not fit, or the bound proves nothing.
    let greedy = Server::command(&stores, io, &["--pool-buffers", "1024", "--cores", "1"]);
    if Server::launch(bounded(&greedy)).is_ok() {
        return skip("RLIMIT_DATA does not bound what a process maps here");
    }
    put_through_pipe(bounded(&put_command(&stores)), &noise);

    // More is declared than the limit, which the server doesn't ask for: the buffers for readahead and the rebuilt blocks
    // would take most of it.
    let options = ["--read-ahead", "0", "--rebuilt-blocks", "0"];
    let serve = Server::command(&stores, io, &options);
    let server = Server::launch(bounded(&serve))
        .unwrap_or_else(|error| panic!("the server did not start in {limit} KiB: {error}"));
    download(&stores, &server, &noise);

    // The object is read back into a file, as `get` does it.
    let file = stores.file("got");
    let mut get = penstock();
    get.arg("get")
        .args(stores.flags())
        .args([KEY, "-o"])
        .arg(&file);
    run(&mut bounded(&get));
    let digest = run(Command::new("sha256sum").arg(&file));
    let tag = common::get(server.objects, PATH, &["Range: bytes=0-0"]);
    assert_eq!(tag.field("ETag").unwrap().trim_matches('"'), &digest[..64]);
}

/// A memory cgroup of this test, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, bytes: u64) -> Result<Cgroup, String> {
        let (root, limit) = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find(|(root, _)| Path::new(root).join("cgroup.procs").exists())
        .ok_or("no cgroups are mounted")?;
        let path = Path::new(root).join(format!("penstock-{}-{name}", std::process::id()));
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let group = Cgroup(path.clone());
        fs::write(path.join(limit), bytes.to_string()).map_err(failed)?;
        Ok(group)
    }

    fn bounded(&self, command: &Command) -> Command {
        let procs = self.0.join("cgroup.procs");
        through_shell(command, "echo $$ > \"$0\"", procs.to_str().unwrap())
    }

    /// How often the kernel killed a process for lack of memory.
    fn killed(&self) -> u64 {
        let read = |name| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let text = read("memory.events") + &read("memory.oom_control");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("a count of kills").parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Removing fails only while a process is in it. Then the group stays, and is soon empty.
        let _ = fs::remove_dir(&self.0);
    }
}

fn more_than_the_cgroup(io: Backend) {
    let stores = Stores::on_disk(6);
    let file_system = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(&stores.paths[0])
        .output();
    if file_system.is_ok_and(|output| output.stdout.starts_with(b"tmpfs")) {
        return skip("the temporary directory is memory itself");
    }
    let noise = Noise::new(9);
    let put_group = match Cgroup::new(&format!("put-{io}"), LIMIT_BYTES) {
        Ok(group) => group,
        Err(error) => return skip(&format!("no memory cgroup can be made: {error}")),
    };
    put_through_pipe(put_group.bounded(&put_command(&stores)), &noise);
    assert_eq!(put_group.killed(), 0);

    let group = Cgroup::new(&format!("serve-{io}"), LIMIT_BYTES).unwrap();
    // The default is more than the group allows, and so is refused.
    let greedy = Server::command(&stores, io, &[]);
    let error = Server::launch(group.bounded(&greedy)).err().unwrap();
    let limit = group.0.join("memory.");
    for words in ["--memory 512MiB", limit.to_str().unwrap(), "allows 64MiB"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    let declared = LIMIT_BYTES.to_string();
    let serve = Server::command(&stores, io, &["--memory", &declared, "--cores", "1"]);
    let server = Server::launch(group.bounded(&serve))
        .unwrap_or_else(|error| panic!("the server did not start in {LIMIT_BYTES} bytes: {error}"));
    let members = fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
    assert_eq!(
        members.trim(),
        server.pid().to_string(),
        "it runs in the group"
    );
    download(&stores, &server, &noise);
    drop(server);
    assert_eq!(group.killed(), 0);
}
