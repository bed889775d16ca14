//! Counts as people say them.

use std::fmt;

/// How many there are of what one word names, as in `1 share` and `2 shares`.
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(
    /// How many.
    pub N,
    /// What one is called.
    pub &'static str,
);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, one) = self;
        write!(f, "{count} ")?;
        if *count == N::from(1) {
            return f.write_str(one);
        }
        match *one {
            "directory" => f.write_str("directories"),
            "leaf" | "bad leaf" => write!(f, "{}ves", one.trim_end_matches('f')),
            one => write!(f, "{one}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_several() {
        assert_eq!(Count(0_u64, "share").to_string(), "0 shares");
        assert_eq!(Count(1_usize, "share").to_string(), "1 share");
        assert_eq!(Count(2_u64, "directory").to_string(), "2 directories");
        assert_eq!(Count(1_u64, "bad leaf").to_string(), "1 bad leaf");
        assert_eq!(Count(7_u64, "bad leaf").to_string(), "7 bad leaves");
    }
}
