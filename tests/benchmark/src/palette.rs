//! The colours of the charts: one for each contender, the same in every chart and in every run,
//! whoever else takes part; and for percentiles others, which no contender has.
//!
//! They can be told apart also by readers who cannot tell red from green: Okabe and Ito's, then
//! dark and light ones.

use plotters::style::RGBColor;

use crate::contender::RELAY_BEFORE;

/// By name.
const CONTENDERS: [(&str, RGBColor); 10] = [
    ("relay", RGBColor(0, 114, 178)),
    ("relay-io-uring", RGBColor(86, 180, 233)),
    ("relay-xsk", RGBColor(0, 158, 115)),
    (RELAY_BEFORE, RGBColor(60, 20, 110)),
    ("two-threads", RGBColor(230, 159, 0)),
    ("sendmmsg-fanout", RGBColor(213, 94, 0)),
    ("socat", RGBColor(204, 121, 167)),
    ("kernel-multicast", RGBColor(110, 110, 110)),
    ("kernel-multicast (threaded)", RGBColor(0, 0, 0)),
    ("dpdk-testpmd", RGBColor(240, 228, 66)),
];

/// From the median on, the darker the rarer.
pub const PERCENTILES: [RGBColor; 4] = [
    RGBColor(205, 190, 215),
    RGBColor(175, 140, 200),
    RGBColor(140, 85, 180),
    RGBColor(90, 30, 140),
];

/// The colour of a contender; `None` if it has none.
pub fn of(contender: &str) -> Option<RGBColor> {
    let mut all = CONTENDERS.iter();
    all.find(|(name, _)| *name == contender)
        .map(|(_, colour)| *colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;

    /// A rough measure of how different two colours look (the "redmean" of Thiadmer Riemersma);
    /// black and white are 765 apart.
    fn distance(RGBColor(a, b, c): RGBColor, RGBColor(d, e, f): RGBColor) -> f64 {
        let difference = |one: u8, other: u8| f64::from(one) - f64::from(other);
        let red = (f64::from(a) + f64::from(d)) / 2.0;
        let squares = (2.0 + red / 256.0) * difference(a, d).powi(2)
            + 4.0 * difference(b, e).powi(2)
            + (2.0 + (255.0 - red) / 256.0) * difference(c, f).powi(2);
        squares.sqrt()
    }

    #[test]
    fn every_contender_has_a_colour() {
        for contender in Contender::all("relay".as_ref()) {
            let name = contender.name();
            assert!(of(&name).is_some(), "{name}: add it to CONTENDERS");
        }
        assert_eq!(of("nobody"), None);
    }

    #[test]
    fn all_colours_can_be_told_apart() {
        let names = CONTENDERS.map(|(_, colour)| colour);
        for colours in [&names[..], &PERCENTILES[..]] {
            for (at, one) in colours.iter().enumerate() {
                for other in &colours[at + 1..] {
                    let apart = distance(*one, *other);
                    assert!(apart > 90.0, "{one:?} and {other:?}: {apart:.0}");
                }
            }
        }
        for one in names {
            assert!(!PERCENTILES.contains(&one), "{one:?}");
        }
    }
}
