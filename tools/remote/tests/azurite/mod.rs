//! Azurite, Microsoft's emulator of Azure's storage, as a process of a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub(crate) const ACCOUNT: &str = "penstock";
pub(crate) const KEY: &str = "c2VjcmV0";

/// It runs until it is dropped.
pub(crate) struct Azurite {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Azurite {
    /// Starts it, if it is installed.
    pub(crate) fn start() -> Option<Azurite> {
        let path = std::env::var_os("PATH")?;
        let mut found = std::env::split_paths(&path).map(|dir| dir.join("azurite-blob"));
        let program = found.find(|program| program.is_file())?;
        // The port is free a moment later too, most likely.
        let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        let process = Command::new(program)
            .args(["--silent", "--skipApiVersionCheck", "--inMemoryPersistence"])
            .arg("--disableTelemetry")
            .args(["--blobPort", &address.port().to_string()])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .stdout(Stdio::null())
            .spawn()
            .expect("azurite starts");
        let mut azurite = Azurite { process, address };
        while TcpStream::connect(address).is_err() {
            let ended = azurite.process.try_wait().unwrap();
            assert!(ended.is_none(), "azurite ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(azurite)
    }

    /// Makes a container.
    pub(crate) fn create(&self, container: &str) {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let fields = format!("x-ms-date:{date}\nx-ms-version:2023-11-03\n");
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container");
        let signed = format!("PUT{}{fields}{resource}", "\n".repeat(12));
        let key = BASE64_STANDARD.decode(KEY).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(signed.as_bytes());
        let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        let request = format!(
            "PUT /{ACCOUNT}/{container}?restype=container HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\
             x-ms-date: {date}\r\nx-ms-version: 2023-11-03\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n\
             Connection: close\r\n\r\n",
            self.address
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = BufReader::new(stream);
        let mut status = String::new();
        answer.read_line(&mut status).unwrap();
        let mut rest = String::new();
        answer.read_to_string(&mut rest).unwrap();
        assert!(status.contains(" 201 "), "{status}{rest}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
