//! Sizes as people read them: short, and exact beside it where that is not the same.

use std::fmt;

use bytesize::ByteSize;

/// Bytes, as in `293.0 KiB (300000 bytes)`, or `6 bytes`.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 byte"),
            bytes @ 0..1024 => write!(f, "{bytes} bytes"),
            bytes => write!(f, "{} ({bytes} bytes)", ByteSize(bytes).display().iec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_said_once() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB (1024 bytes)"),
            (300_000, "293.0 KiB (300000 bytes)"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
