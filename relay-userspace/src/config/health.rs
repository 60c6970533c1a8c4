//! What a rule asks the relay to watch of its datagrams: keys `silence` and `monitor`.

use std::{fmt, time::Duration};

use toml::de::DeValue;

use super::{draft::At, mistake::quoted, reader::Reader, values::Value};

/// What the relay watches of a rule's datagrams, beside counting them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// How long no datagram may come before the rule counts as silent, [`Health::SHORTEST`] to
    /// [`Health::LONGEST`]; `None` means for ever.
    pub silence: Option<Duration>,
    /// Where the datagrams have sequence numbers; `None` leaves their payloads unread.
    pub monitor: Option<Monitor>,
}

impl Health {
    /// The shortest silence: counters are looked at a few times within it.
    pub const SHORTEST: Duration = Duration::from_millis(20);
    /// The longest silence, a day.
    pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
}

/// Where datagrams have their sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Monitor {
    /// In an RTP header (RFC 3550).
    Rtp,
    /// In the packets of an MPEG transport stream (ISO/IEC 13818-1), one continuity counter per
    /// PID.
    MpegTs,
    /// In a MoldUDP64 header.
    MoldUdp64,
    /// At a fixed place.
    Counter(Counter),
}

/// A number at a fixed place of every payload, which grows by one from datagram to datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Counter {
    /// Where it starts, in bytes from the start of the payload; at most [`Counter::MAX_OFFSET`].
    pub offset: u16,
    /// How many bytes it has: 1, 2, 4 or 8.
    pub bytes: u8,
    /// The order of its bytes.
    pub order: Order,
}

impl Counter {
    /// The last offset: a number of 8 bytes ends there with the largest payload.
    pub const MAX_OFFSET: u16 = u16::MAX - 8;
}

/// The order of the bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The most significant first, as networks have it.
    Big,
    /// The least significant first.
    Little,
}

/// As a rule file has it.
impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rtp => f.write_str("\"rtp\""),
            Self::MpegTs => f.write_str("\"mpeg-ts\""),
            Self::MoldUdp64 => f.write_str("\"moldudp64\""),
            Self::Counter(Counter {
                offset,
                bytes,
                order,
            }) => {
                let order = match order {
                    Order::Big => "big",
                    Order::Little => "little",
                };
                write!(
                    f,
                    "{{ offset = {offset}, bytes = {bytes}, order = \"{order}\" }}"
                )
            }
        }
    }
}

/// A time as a rule file has it: "500ms" or "2s".
#[derive(Debug, Clone, Copy)]
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        match milliseconds % 1000 {
            0 => write!(f, "{}s", milliseconds / 1000),
            _ => write!(f, "{milliseconds}ms"),
        }
    }
}

impl Reader<'_, '_> {
    /// The `silence` of a rule.
    pub(super) fn silence(&mut self, value: &Value<'_>, label: &str) -> Option<Duration> {
        let At { place, value: text } = self.string(value, "silence", label, "\"500ms\"")?;
        let (cause, remedy) = match duration(&text) {
            Some(time) if (Health::SHORTEST..=Health::LONGEST).contains(&time) => {
                return Some(time);
            }
            Some(_) => ("is out of range", "give a time from \"20ms\" to \"24h\""),
            None => (
                "is no time",
                "give a whole number and its unit: `ms`, `s`, `min` or `h`, for example \"500ms\"",
            ),
        };
        let cause = format!("{label}: `silence` \"{}\" {cause}", quoted(&text));
        self.found.add(place, cause, remedy);
        None
    }

    /// The `monitor` of a rule.
    pub(super) fn monitor(&mut self, value: &Value<'_>, label: &str) -> Option<Monitor> {
        match value.get_ref() {
            DeValue::String(text) => match &**text {
                "rtp" => Some(Monitor::Rtp),
                "mpeg-ts" => Some(Monitor::MpegTs),
                "moldudp64" => Some(Monitor::MoldUdp64),
                _ => {
                    let place = self.found.place(&value.span());
                    let cause = format!("{label}: `monitor` \"{}\" is unknown", quoted(text));
                    let remedy = "give \"rtp\", \"mpeg-ts\", \"moldudp64\", or the place of a \
                                  number: { offset = 0, bytes = 4, order = \"big\" }";
                    self.found.add(place, cause, remedy);
                    None
                }
            },
            DeValue::Table(_) => self.counter(value, &format!("{label}, monitor")),
            _ => {
                self.wrong_type(value, "monitor", label, "a string or a table", "\"rtp\"");
                None
            }
        }
    }

    fn counter(&mut self, value: &Value<'_>, label: &str) -> Option<Monitor> {
        const KEYS: [&str; 3] = ["offset", "bytes", "order"];
        const EXAMPLE: &str = "{ offset = 0, bytes = 4, order = \"big\" }";
        let place = self.found.place(&value.span());
        let table = self.table(value, label, EXAMPLE)?;
        self.known_keys(table, label, &KEYS);
        let offset = self.required(table, place, "offset", label);
        let most = u32::from(Counter::MAX_OFFSET);
        let offset = offset.and_then(|value| self.integer(value, "offset", label, 0..=most, "0"));
        let bytes = self.required(table, place, "bytes", label);
        let bytes = bytes.and_then(|value| self.width(value, label));
        let order = match table.get("order") {
            Some(value) => self.order(value, label),
            None => Some(Order::Big),
        };
        Some(Monitor::Counter(Counter {
            offset: u16::try_from(offset?.value).ok()?,
            bytes: bytes?,
            order: order?,
        }))
    }

    /// How many bytes a number has.
    fn width(&mut self, value: &Value<'_>, label: &str) -> Option<u8> {
        let At { place, value } = self.integer(value, "bytes", label, 1..=8, "4")?;
        if value.is_power_of_two() {
            return u8::try_from(value).ok();
        }
        let cause = format!("{label}: `bytes` {value} is not possible");
        self.found.add(place, cause, "give 1, 2, 4 or 8");
        None
    }

    fn order(&mut self, value: &Value<'_>, label: &str) -> Option<Order> {
        let At { place, value: text } = self.string(value, "order", label, "\"big\"")?;
        match text.as_str() {
            "big" => Some(Order::Big),
            "little" => Some(Order::Little),
            _ => {
                let cause = format!("{label}: `order` \"{}\" is unknown", quoted(&text));
                let remedy =
                    "give \"big\" or \"little\"; the default is \"big\", as networks have it";
                self.found.add(place, cause, remedy);
                None
            }
        }
    }
}

/// "500ms", "2s", "5min" or "1h".
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_with_their_units() {
        let ms = |text| duration(text).map(|time| time.as_millis());
        let cases = [
            ("500ms", Some(500)),
            ("20 ms", Some(20)),
            ("2s", Some(2_000)),
            ("5min", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("ms", None),
            ("-5s", None),
            ("1.5s", None),
            ("5 d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(ms(text), expected, "{text}");
        }
        for text in ["500ms", "2s", "1500ms", "86400s"] {
            assert_eq!(Written(duration(text).unwrap()).to_string(), text);
        }
    }
}
