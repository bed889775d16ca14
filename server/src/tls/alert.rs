//! Alerts (RFC 8446 section 6).

use std::fmt;

/// What an alert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl Alert {
    /// Nothing more comes.
    pub const CLOSE_NOTIFY: Alert = Alert(0);
    /// A message of the wrong kind, or at the wrong time.
    pub const UNEXPECTED_MESSAGE: Alert = Alert(10);
    /// A record can't be decrypted.
    pub const BAD_RECORD_MAC: Alert = Alert(20);
    /// A record is longer than any may be.
    pub const RECORD_OVERFLOW: Alert = Alert(22);
    /// A message can't be parsed.
    pub const DECODE_ERROR: Alert = Alert(50);
    /// It is not the peer's fault.
    pub const INTERNAL_ERROR: Alert = Alert(80);
    /// There is no second handshake.
    pub const NO_RENEGOTIATION: Alert = Alert(100);
    /// There is no certificate for the name that was asked for (RFC 6066 section 3).
    pub const UNRECOGNIZED_NAME: Alert = Alert(112);

    /// Its level and description, as they are sent. All but the first end the connection.
    pub fn bytes(self) -> [u8; 2] {
        let level = match self {
            Alert::CLOSE_NOTIFY => 1,
            _ => 2,
        };
        [level, self.0]
    }

    /// A record of it for a peer with whom there are no keys yet.
    pub fn plain_record(self) -> [u8; 7] {
        let [level, description] = self.bytes();
        [21, 3, 3, 0, 2, level, description]
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", rustls::AlertDescription::from(self.0))
    }
}
