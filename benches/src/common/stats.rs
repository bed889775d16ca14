//! Summaries of a series of measurements.

/// Median and spread of one series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The number of measurements.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter is at or below it.
    pub lower_quartile: f64,
    /// Half are at or below it.
    pub median: f64,
    /// Three quarters are at or below it.
    pub upper_quartile: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Summarises measurements, which must be numbers.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn of(values: &[f64]) -> Summary {
        assert!(!values.is_empty(), "no measurements");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        // Quantiles between two measurements are interpolated linearly.
        let at = |fraction: f64| {
            let place = fraction * (sorted.len() - 1) as f64;
            let (low, high) = (
                sorted[place.floor() as usize],
                sorted[place.ceil() as usize],
            );
            low + (high - low) * place.fract()
        };
        Summary {
            count: sorted.len(),
            min: at(0.0),
            lower_quartile: at(0.25),
            median: at(0.5),
            upper_quartile: at(0.75),
            max: at(1.0),
        }
    }

    /// Half the distance between the quartiles, as a part of the median.
    pub fn spread(&self) -> f64 {
        (self.upper_quartile - self.lower_quartile) / 2.0 / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0, 5.0]);
        let all = (1.0, 2.0, 3.0, 4.0, 5.0);
        let Summary {
            min,
            lower_quartile,
            median,
            upper_quartile,
            max,
            ..
        } = summary;
        assert_eq!((min, lower_quartile, median, upper_quartile, max), all);
        assert_eq!(Summary::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Summary::of(&[7.0]).spread(), 0.0);
    }
}
