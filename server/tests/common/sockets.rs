//! The kernel's list of a server's connections and their queues, independent of the server's own counters.

use super::Server;

/// The server's end of one connection.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Bytes that the server wrote and the peer has not acknowledged.
    pub send: u64,
    /// Bytes that the kernel received and the server has not read.
    pub receive: u64,
}

/// The server's connections in this thread's network namespace, including connections that the server has closed and
/// the kernel has not. Left out are the remains of a connection with nothing to send that waits for its peer, whose
/// ports the kernel keeps for a minute (proc_net_tcp.rst in the kernel's documentation describes the columns).
pub fn sockets(server: &Server) -> Vec<Queues> {
    const LISTEN: &str = "0A";
    const TIME_WAIT: &str = "06";
    /// A whole socket in this state belongs to a process, and has an inode.
    const FIN_WAIT2: &str = "05";
    const NONE: &str = "0";
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = format!(":{:04X}", server.objects.port());
    let ours = text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, state, queues, inode) = (words[1], words[3], words[4], words[9]);
        let is_left = state == TIME_WAIT || state == FIN_WAIT2 && inode == NONE;
        let is_ours = address.ends_with(&port) && state != LISTEN && !is_left;
        let (send, receive) = queues.split_once(':').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        is_ours.then(|| Queues {
            send: number(send),
            receive: number(receive),
        })
    });
    ours.collect()
}
