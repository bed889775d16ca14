//! A server of the work, by one of the ways.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use penstock_benches::common::launch::READY;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use socket2::{Domain, SockRef, Socket, Type};

use super::raw;
use super::work::{Connection, Job, POOL, RING_ENTRIES, Way, Work};

/// The first argument that makes the benchmark a server. For internal use.
const STREAM: &str = "stream-pieces";
/// Events taken at once.
const EVENTS: usize = 512;
/// The most pieces begun before the loop polls for writable sockets again.
const TURN: usize = 64;

/// The command line of a server.
pub(super) fn command(way: Way, work: Work, file: &Path) -> anyhow::Result<Vec<String>> {
    let name = way.to_possible_value().context("a hidden way")?;
    Ok(vec![
        std::env::current_exe()?.display().to_string(),
        STREAM.to_owned(),
        name.get_name().to_owned(),
        work.piece.to_string(),
        work.connections.to_string(),
        file.display().to_string(),
    ])
}

/// Serves until killed, if this process was started as a server.
///
/// # Errors
///
/// If it was, and cannot serve.
pub(super) fn serve_if_started_as_server() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    if args.next().is_none_or(|first| first != STREAM) {
        return Ok(());
    }
    let mut next = || args.next().context("it takes WAY PIECE CONNECTIONS FILE");
    let way = Way::from_str(&next()?, true).map_err(anyhow::Error::msg)?;
    let work = Work {
        piece: next()?.parse()?,
        connections: next()?.parse()?,
    };
    let file = File::open(next()?)?;
    let size = file.metadata()?.len();
    ensure!(
        work.piece > 0 && size > 0 && size.is_multiple_of(work.piece as u64),
        "a file of {size} bytes has no whole pieces of {}",
        work.piece
    );
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1024)?;
    let address = listener.local_addr()?.as_socket().context("an address")?;
    println!("{READY}{address}");
    let mut connections = Vec::with_capacity(work.connections);
    for number in 0..work.connections {
        let (socket, _) = listener.accept()?;
        socket.set_tcp_nodelay(true)?;
        SockRef::from(&socket).set_send_buffer_size(work.send_buffer())?;
        connections.push(Connection {
            socket: TcpStream::from(socket),
            position: work.start(number, size),
        });
    }
    let job = Job {
        file,
        size,
        piece: work.piece,
    };
    match way {
        Way::TokioUring | Way::TokioPlain | Way::TokioCoop | Way::TokioFlag => {
            tokio_tasks(way, job, connections)
        }
        Way::Raw | Way::RawCoop => raw::run(way, &job, connections),
        Way::Epoll => plain(&job, connections),
    }
}

fn tokio_tasks(way: Way, job: Job, connections: Vec<Connection>) -> anyhow::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    // The flags against interrupts that its driver allows; it does not allow deferred task work.
    if way != Way::TokioPlain {
        ring.setup_coop_taskrun();
    }
    if matches!(way, Way::TokioUring | Way::TokioFlag) {
        ring.setup_single_issuer();
    }
    if way == Way::TokioFlag {
        ring.setup_taskrun_flag();
    }
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    builder.start(async move {
        let (size, piece) = (job.size, job.piece);
        let file = Rc::new(tokio_uring::fs::File::from_std(job.file));
        // A semaphore hands out buffers: a task without a buffer waits in line.
        let line = Rc::new(tokio::sync::Semaphore::new(POOL));
        let pool = Rc::new(std::cell::RefCell::new(vec![vec![0u8; piece]; POOL]));
        let mut tasks = Vec::with_capacity(connections.len());
        for connection in connections {
            let (file, line, pool) = (Rc::clone(&file), Rc::clone(&line), Rc::clone(&pool));
            tasks.push(tokio_uring::spawn(async move {
                let socket = tokio_uring::net::TcpStream::from_std(connection.socket);
                let mut position = connection.position;
                loop {
                    let place = line.acquire().await.map_err(io::Error::other)?;
                    let buffer = pool.borrow_mut().pop().unwrap_or_else(|| vec![0; piece]);
                    let (read, buffer) = file.read_at(buffer, position).await;
                    if read? != piece {
                        return Err(io::Error::other("a short read"));
                    }
                    let (sent, buffer) = socket.write_all(buffer).await;
                    sent?;
                    position = (position + piece as u64) % size;
                    pool.borrow_mut().push(buffer);
                    drop(place);
                }
            }));
        }
        for task in tasks {
            // A task returns only with an error.
            let ended: io::Result<()> = task.await?;
            ended?;
        }
        Ok(())
    })
}

/// A connection that holds a buffer, and how much of it was sent.
struct Sending {
    buffer: Vec<u8>,
    sent: usize,
}

fn plain(job: &Job, mut connections: Vec<Connection>) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, connection) in connections.iter().enumerate() {
        connection.socket.set_nonblocking(true)?;
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &connection.socket, data, flags)?;
    }
    let mut pool = vec![vec![0u8; job.piece]; POOL];
    let mut sending: Vec<Option<Sending>> = connections.iter().map(|_| None).collect();
    let mut line: VecDeque<usize> = (0..connections.len()).collect();
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        for _ in 0..TURN {
            if pool.is_empty() {
                break;
            }
            let (Some(number), Some(mut buffer)) = (line.pop_front(), pool.pop()) else {
                break;
            };
            let position = connections[number].position;
            job.file.read_exact_at(&mut buffer, position)?;
            sending[number] = Some(Sending { buffer, sent: 0 });
            if let Some(buffer) =
                continue_sending(&mut connections[number], &mut sending[number], job.size)?
            {
                pool.push(buffer);
                line.push_back(number);
            }
        }
        // The loop sleeps only if there is nothing to begin.
        let now = rustix::event::Timespec::default();
        let rest = line.is_empty() || pool.is_empty();
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), (!rest).then_some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let number = event.data.u64() as usize;
            if let Some(buffer) =
                continue_sending(&mut connections[number], &mut sending[number], job.size)?
            {
                pool.push(buffer);
                line.push_back(number);
            }
        }
    }
}

/// Sends as much as the socket takes. Returns the buffer to the pool when all of it is sent.
fn continue_sending(
    connection: &mut Connection,
    sending: &mut Option<Sending>,
    size: u64,
) -> anyhow::Result<Option<Vec<u8>>> {
    // An edge event may come for a connection that has nothing to send yet.
    while let Some(now) = sending {
        match send(
            &connection.socket,
            &now.buffer[now.sent..],
            SendFlags::NOSIGNAL,
        ) {
            Ok(count) => now.sent += count,
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if now.sent == now.buffer.len() {
            connection.position = (connection.position + now.sent as u64) % size;
            return Ok(sending.take().map(|done| done.buffer));
        }
    }
    Ok(None)
}
