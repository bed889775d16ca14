//! A raw HTTP client that reads only when told to. Tests decide which bytes are sent, and when the peer stalls, resets
//! or continues.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustls::ClientConnection;
use socket2::{Domain, SockRef, Socket, Type};

use super::{PATIENCE, secure};

/// The receive buffer of a client that is going to stall: small, so that it is full soon.
pub const STALLED_RECEIVE_BYTES: usize = 4096;

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Its session, if it speaks TLS.
    session: Option<Box<ClientConnection>>,
    /// Bytes read from the socket and not yet parsed.
    buffered: Vec<u8>,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    /// The status line.
    pub line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field, which must occur at most once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} occurs twice: {self:?}");
        value
    }

    pub fn length(&self) -> u64 {
        let length = self.field("Content-Length");
        length
            .unwrap_or_else(|| panic!("no Content-Length: {self:?}"))
            .parse()
            .unwrap()
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text body")
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed the connection in an orderly way.
    Closed,
    /// The connection was reset.
    Reset,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
        Client::over(stream)
    }

    /// A client without TLS, whatever the server speaks.
    pub fn connect_plain(address: SocketAddr) -> Client {
        Client::plain(TcpStream::connect_timeout(&address, PATIENCE).expect("connects"))
    }

    /// As [`Client::connect_plain`], with this receive buffer.
    pub fn connect_plain_with(address: SocketAddr, receive_bytes: usize) -> Client {
        Client::plain(connected_with(address, receive_bytes))
    }

    /// A client that is going to stall, and holds few bytes then.
    pub fn connect_small(address: SocketAddr) -> Client {
        Client::connect_with(address, STALLED_RECEIVE_BYTES)
    }

    /// A client with its own source address, one of loopback's.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket
            .connect_timeout(&address.into(), PATIENCE)
            .expect("connects");
        Client::over(socket.into())
    }

    /// A client with this receive buffer. The kernel doubles it and uses a part for itself.
    pub fn connect_with(address: SocketAddr, receive_bytes: usize) -> Client {
        Client::over(connected_with(address, receive_bytes))
    }

    fn over(stream: TcpStream) -> Client {
        let session = stream.peer_addr().ok().and_then(secure::session_with);
        let mut client = Client::plain(stream);
        if let Some(session) = session {
            client.secure(session).expect("a TLS session");
        }
        client
    }

    fn plain(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            session: None,
            buffered: Vec::new(),
        }
    }

    /// Performs a TLS handshake. What is sent from now on is sent in records.
    pub fn secure(&mut self, mut session: ClientConnection) -> io::Result<()> {
        secure::handshake(&mut session, &self.stream)?;
        self.session = Some(Box::new(session));
        Ok(())
    }

    /// The session of a client that speaks TLS.
    pub fn session(&mut self) -> &mut ClientConnection {
        self.session.as_mut().expect("a client that speaks TLS")
    }

    /// Sends bytes below TLS.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Receives some bytes below TLS, for a session that is not the client's yet.
    pub fn read_raw(&mut self, session: &mut ClientConnection) -> io::Result<usize> {
        session.read_tls(&mut self.stream)
    }

    /// Shuts down sending, if the connection is still there.
    pub fn try_finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Receives bytes below TLS until the connection ends.
    pub fn raw_until_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => (bytes, End::Closed),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, End::Reset),
            Err(error) => panic!("after {} bytes: {error}", bytes.len()),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the request is taken");
    }

    /// Sends bytes that the peer may refuse by now.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.session {
            None => self.stream.write_all(bytes.as_ref()),
            Some(session) => secure::send(session, &self.stream, bytes.as_ref()),
        }
    }

    /// Sends as many of these bytes as the kernels accept now, and returns their number.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).unwrap();
        if let Some(session) = &mut self.session {
            let taken = secure::push(session, &self.stream, bytes);
            self.stream.set_nonblocking(false).unwrap();
            return taken;
        }
        let mut taken = 0;
        while taken < bytes.len() {
            match self.stream.write(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.stream.set_nonblocking(false).unwrap();
        taken
    }

    /// Sends a request; `fields` are whole lines without their end.
    pub fn ask(&mut self, method: &str, path: &str, fields: &[&str]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for field in fields {
            text += field;
            text += "\r\n";
        }
        self.send(text + "\r\n");
    }

    /// Sends a request and reads the whole response.
    pub fn request(&mut self, method: &str, path: &str, fields: &[&str]) -> Response {
        self.ask(method, path, fields);
        self.response(method)
    }

    /// Reads one response to a request of this method.
    pub fn response(&mut self, method: &str) -> Response {
        let head = self.head();
        let bodiless = method == "HEAD" || matches!(head.status, 204 | 304);
        let body = if bodiless {
            Vec::new()
        } else {
            self.body(head.length() as usize)
        };
        Response { head, body }
    }

    /// Reads one head. It reads nothing behind the head, if `buffered` was empty and the head came alone.
    pub fn head(&mut self) -> Head {
        let end = loop {
            if let Some(at) = self.buffered.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.buffered.len() < 64 << 10, "a head without end");
            // Few bytes at a time, so that a stalled client leaves the body in the kernel.
            let got = self.fill(256).expect("a response head");
            assert!(
                got > 0,
                "closed within a head: {:?}",
                String::from_utf8_lossy(&self.buffered)
            );
        };
        let bytes: Vec<u8> = self.buffered.drain(..end).collect();
        parse_head(&bytes)
    }

    fn fill(&mut self, most: usize) -> io::Result<usize> {
        let start = self.buffered.len();
        self.buffered.resize(start + most, 0);
        let result = loop {
            let into = &mut self.buffered[start..];
            let result = match &mut self.session {
                None => self.stream.read(into),
                Some(session) => secure::receive(session, &self.stream, into),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.buffered
            .truncate(start + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Reads exactly this many bytes of a body.
    pub fn body(&mut self, length: usize) -> Vec<u8> {
        while self.buffered.len() < length {
            let missing = length - self.buffered.len();
            let got = self.fill(missing.min(256 << 10)).expect("a body");
            assert!(got > 0, "closed {missing} bytes before the end of the body");
        }
        let rest = self.buffered.split_off(length);
        std::mem::replace(&mut self.buffered, rest)
    }

    /// As [`Client::body`], for a connection that may end earlier.
    pub fn try_body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffered.len() < length {
            if self.fill((length - self.buffered.len()).min(256 << 10))? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.body(length))
    }

    /// Reads at most `most` bytes, and how the connection ends.
    pub fn rest(&mut self, most: usize) -> (Vec<u8>, Option<End>) {
        loop {
            if self.buffered.len() >= most {
                return (self.body(most), None);
            }
            let end = match self.fill((most - self.buffered.len()).min(256 << 10)) {
                Ok(0) => End::Closed,
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
                Err(error) => panic!("after {} bytes: {error}", self.buffered.len()),
            };
            return (std::mem::take(&mut self.buffered), Some(end));
        }
    }

    /// Reads until the connection ends, and returns how it ended.
    pub fn until_end(&mut self) -> (Vec<u8>, End) {
        let (bytes, end) = self.rest(usize::MAX);
        (bytes, end.expect("an end"))
    }

    /// The peer must send nothing more, and close.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let (bytes, end) = self.until_end();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "",
            "more than was expected"
        );
        assert_eq!(end, End::Closed);
    }

    /// The connection must still work: no bytes are waiting, and another request is answered.
    #[track_caller]
    pub fn expect_open(&mut self, path: &str) {
        assert_eq!(self.buffered, b"", "more than was expected");
        assert_eq!(self.request("HEAD", path, &[]).status(), 200);
    }

    /// Whether any byte arrives, or the connection ends, within `time`.
    pub fn hears_within(&mut self, time: Duration) -> bool {
        if !self.buffered.is_empty() {
            return true;
        }
        self.stream.set_read_timeout(Some(time)).unwrap();
        let heard = match self.session.is_some() {
            // What is in the kernel may be none of the content.
            true => self.fill(1),
            false => self.stream.peek(&mut [0]),
        };
        let heard = match heard {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        heard
    }

    /// Shuts down sending: no more requests come.
    pub fn finish(&mut self) {
        if let Some(session) = &mut self.session {
            session.send_close_notify();
            secure::flush(session, &self.stream).unwrap();
        }
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

fn connected_with(address: SocketAddr, receive_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    // The buffer is set before connecting, since the window scale is negotiated then.
    socket.set_recv_buffer_size(receive_bytes).unwrap();
    socket
        .connect_timeout(&address.into(), PATIENCE)
        .expect("connects");
    socket.into()
}

fn parse_head(bytes: &[u8]) -> Head {
    let text = std::str::from_utf8(bytes).expect("a head in ASCII");
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let mut words = line.splitn(3, ' ');
    assert_eq!(words.next(), Some("HTTP/1.1"), "{line}");
    let status = words.next().unwrap().parse().unwrap();
    assert!(
        words.next().is_some_and(|reason| !reason.is_empty()),
        "{line}"
    );
    let fields = lines
        .map(|line| {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("field {line:?}"));
            assert!(
                !name.contains(' ') && value.trim() == value,
                "field {line:?}"
            );
            (name.to_owned(), value.to_owned())
        })
        .collect();
    Head {
        status,
        line,
        fields,
    }
}

/// One GET over a new connection.
pub fn get(address: SocketAddr, path: &str, fields: &[&str]) -> Response {
    Client::connect(address).request("GET", path, fields)
}
