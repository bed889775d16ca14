//! The bounds of values, and the error of a value beyond them, which says what is allowed.

use std::fmt;

use bytesize::ByteSize;

use super::values::Exact;

/// A value that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{option} {value}: {reason}")]
pub struct SettingsError {
    /// The option.
    pub option: &'static str,
    /// What it was set to.
    pub value: String,
    /// The bounds of its values.
    pub reason: String,
}

/// The sizes that an option may have.
#[derive(Clone, Copy, Debug)]
pub struct SizeBounds {
    /// The least, in bytes.
    pub least: u64,
    /// The most, in bytes.
    pub most: u64,
    /// Of how many bytes it must be a multiple; 1 if any number does.
    pub step: u64,
}

impl SizeBounds {
    /// The bytes of `size`, if they are within the bounds.
    pub fn check(self, option: &'static str, size: ByteSize) -> Result<u64, SettingsError> {
        let bytes = size.as_u64();
        if (self.least..=self.most).contains(&bytes) && bytes.is_multiple_of(self.step) {
            return Ok(bytes);
        }
        Err(SettingsError {
            option,
            value: Exact(bytes).to_string(),
            reason: format!("it must be {self}"),
        })
    }
}

impl fmt::Display for SizeBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (Exact(self.least), Exact(self.most));
        write!(f, "between {least} and {most}")?;
        match self.step {
            1 => Ok(()),
            step => write!(f, ", a multiple of {}", Exact(step)),
        }
    }
}

/// A value that is neither a size nor beyond these bounds.
pub(super) fn bounded<T: PartialOrd + fmt::Display>(
    option: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<T, SettingsError> {
    if value < least || value > most {
        return Err(SettingsError {
            option,
            value: value.to_string(),
            reason: format!("it must be between {least} and {most}"),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_error_says_what_is_allowed() {
        let bounds = SizeBounds {
            least: 4 << 10,
            most: 16 << 20,
            step: 4 << 10,
        };
        for good in [4 << 10, 8 << 10, 16 << 20] {
            assert_eq!(bounds.check("block-size", ByteSize(good)), Ok(good));
        }
        for (bad, shown) in [
            (0, "0B"),
            (70_000, "70KB"),
            ((4 << 10) + 1, "4097B"),
            ((16 << 20) + 4096, "16388KiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            let error = bounds.check("block-size", ByteSize(bad)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "--block-size {shown}: it must be between 4KiB and 16MiB, a multiple of 4KiB"
                )
            );
        }
        let any = SizeBounds { step: 1, ..bounds };
        assert_eq!(any.to_string(), "between 4KiB and 16MiB");
    }
}
