//! The token of the admin listener: a secret in a file of its own.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use subtle::ConstantTimeEq as _;

/// A secret. It is neither shown nor compared in a way that tells how much of a guess was right.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

/// Characters of a token: fewer can be guessed, more are a mistake in the file.
const CHARACTERS: std::ops::RangeInclusive<usize> = 16..=256;

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It can't be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It holds something else.
    #[error(
        "the file must hold one line of {} to {} printable ASCII characters without blanks, such as the output of \
         `openssl rand -hex 32`", CHARACTERS.start(), CHARACTERS.end()
    )]
    Content,
}

impl Token {
    /// Reads the one line of a file. Blanks around it do not count. Warns if everybody may read the file.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let file = std::fs::File::open(path)?;
        if file.metadata()?.permissions().mode() & 0o004 != 0 {
            tracing::warn!(path = %path.display(), "every user of this machine can read the token: `chmod o= FILE`");
        }
        let mut text = String::new();
        // Whatever the path names, no more is read than a token and its end of line can be.
        file.take(2 * *CHARACTERS.end() as u64)
            .read_to_string(&mut text)
            .map_err(|_| TokenError::Content)?;
        Token::new(text.trim_ascii())
    }

    /// A token of this text.
    fn new(text: &str) -> Result<Token, TokenError> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        match printable && CHARACTERS.contains(&text.len()) {
            true => Ok(Token(text.as_bytes().into())),
            false => Err(TokenError::Content),
        }
    }

    /// Whether this is it.
    pub fn is(&self, guess: &[u8]) -> bool {
        self.0.ct_eq(guess).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_that_nobody_guesses() {
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for guess in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdeF",
            b"0123456789abcdef0",
        ] {
            assert!(!token.is(guess));
        }
        assert!(!format!("{token:?}").contains('0'));
        for bad in [
            "",
            "short",
            "two lines of it\nand more",
            "ümlaut-0123456789abcdef",
        ] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
        assert!(Token::new(&"a".repeat(257)).is_err());
    }

    #[test]
    fn it_is_read_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(Token::read(&path), Err(TokenError::Read(_))));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert!(Token::read(&path).unwrap().is(b"0123456789abcdef"));
        std::fs::write(&path, [0xff; 20]).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Content)));
        assert!(matches!(
            Token::read(Path::new("/dev/zero")),
            Err(TokenError::Content)
        ));
    }
}
