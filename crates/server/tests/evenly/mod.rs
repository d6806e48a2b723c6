//! Whether two works take equally long, on a machine that does other things as well.

use std::time::Duration;

const TRIES: u64 = 8;
const DIFFERENCE_MAX: f64 = 0.05;

/// Asserts that two works take equally long: `sample` gives times of both, taken in turns, and is called with the number of
/// the try. A difference that is there is there in every try and on the same side; what else runs on the machine is not.
pub(crate) fn assert_equally_long(mut sample: impl FnMut(u64) -> (Vec<Duration>, Vec<Duration>)) {
    let mut seen: Vec<f64> = Vec::new();
    for attempt in 0..TRIES {
        let (one, other) = sample(attempt);
        let (one, other) = (undisturbed(one), undisturbed(other));
        println!("undisturbed: {:.1} us and {:.1} us", one * 1e6, other * 1e6);
        let difference = one / other - 1.0;
        let turned = seen.first().is_some_and(|first| first.signum() != difference.signum());
        if difference.abs() < DIFFERENCE_MAX || turned {
            return;
        }
        seen.push(difference);
    }
    panic!("one takes longer than the other: {seen:?}");
}

/// The lowest tenth ends here. What else runs on the machine only adds to a time, so this is hardly moved by it, and a work
/// that does more is longer here as well.
fn undisturbed(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 10].as_secs_f64()
}
