//! Dates in fields. Making their text takes a while, so a core remembers some.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

/// The time in whole seconds, as in a field.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds_of(time))
}

/// Seconds since 1970.
pub(super) fn seconds_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Bytes of a date as HTTP writes it (IMF-fixdate, RFC 9110 section 5.6.7).
const DATE_BYTES: usize = 29;
/// Dates whose text a core remembers: the current second, and the dates of objects in demand.
const DATES: usize = 16;

thread_local! {
    /// Seconds and their texts, each at the place `seconds % DATES`.
    static DATE_TEXTS: RefCell<[(u64, [u8; DATE_BYTES]); DATES]> =
        const { RefCell::new([(u64::MAX, [0; DATE_BYTES]); DATES]) };
}

/// The date as HTTP writes it.
pub(super) fn date_text(date: SystemTime) -> [u8; DATE_BYTES] {
    let seconds = seconds_of(date);
    DATE_TEXTS.with_borrow_mut(|texts| {
        let (known, text) = &mut texts[(seconds % DATES as u64) as usize];
        if *known != seconds {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            // The text always has this length: httpdate ends with the year 9999.
            let _ = write!(&mut text[..], "{}", httpdate::HttpDate::from(date));
            *known = seconds;
        }
        *text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_remembered_by_their_second() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // Twice round, so that places are used again.
        for seconds in [0, 16, 784_111_777, 0, 1, 784_111_777, 16] {
            let text = date_text(at(seconds));
            assert_eq!(
                text.as_slice(),
                httpdate::fmt_http_date(at(seconds)).as_bytes()
            );
        }
    }
}
