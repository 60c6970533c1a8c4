//! Frames as a pcapng file, the format of Wireshark and tcpdump
//! (draft-ietf-opsawg-pcapng): a section header, one block per interface, and one per frame, which
//! says in which direction it went, and what is to be said of it.
//!
//! Only writes, to memory: four kinds of blocks are all that it takes. (The crates that write
//! pcapng bring a second version of what others here are built with.)

/// The direction of a frame, in the two lowest bits of its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Inbound = 1,
    /// It left, or should have.
    Outbound = 2,
}

/// One frame.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Which of the interfaces, in their order in the file.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its direction.
    pub direction: Direction,
    /// Frames of the interface that are missing before this one.
    pub lost: u64,
    /// What is to be said of it.
    pub comment: &'a str,
    /// The frame.
    pub bytes: &'a [u8],
}

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const COMMENT: u16 = 1;
const SECTION_HARDWARE_OS: u16 = 3;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_LOST: u16 = 4;

/// The longest value of an option.
const MOST: usize = u16::MAX as usize;

/// Begins a file.
pub fn section(to: &mut Vec<u8>) {
    let program = concat!("relay ", env!("CARGO_PKG_VERSION"));
    block(to, SECTION, |to| {
        to.extend(BYTE_ORDER.to_le_bytes());
        // Version 1.0, of a length that is not known.
        to.extend(1_u16.to_le_bytes());
        to.extend(0_u16.to_le_bytes());
        to.extend((-1_i64).to_le_bytes());
        option(to, SECTION_HARDWARE_OS, b"Linux");
        option(to, SECTION_PROGRAM, program.as_bytes());
        end(to);
    });
}

/// Adds an Ethernet interface whose time stamps are nanoseconds.
pub fn interface(to: &mut Vec<u8>, name: &str) {
    block(to, INTERFACE, |to| {
        to.extend(ETHERNET.to_le_bytes());
        to.extend(0_u16.to_le_bytes());
        // Frames are whole.
        to.extend(0_u32.to_le_bytes());
        option(to, INTERFACE_NAME, name.as_bytes());
        option(to, INTERFACE_RESOLUTION, &[9]);
        end(to);
    });
}

/// Adds a frame.
pub fn packet(to: &mut Vec<u8>, packet: &Packet<'_>) {
    let len = packet.bytes.len() as u32;
    block(to, PACKET, |to| {
        to.extend(packet.interface.to_le_bytes());
        to.extend(((packet.time >> 32) as u32).to_le_bytes());
        to.extend((packet.time as u32).to_le_bytes());
        // What is there of it, and what there was.
        to.extend(len.to_le_bytes());
        to.extend(len.to_le_bytes());
        to.extend_from_slice(packet.bytes);
        pad(to);
        option(to, COMMENT, packet.comment.as_bytes());
        option(to, PACKET_FLAGS, &(packet.direction as u32).to_le_bytes());
        if packet.lost > 0 {
            option(to, PACKET_LOST, &packet.lost.to_le_bytes());
        }
        end(to);
    });
}

/// Writes a block: its kind, its length, what is in it, and its length once more. Everything before
/// it must be whole blocks.
fn block(to: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend(kind.to_le_bytes());
    to.extend(0_u32.to_le_bytes());
    body(to);
    let len = (to.len() - start + size_of::<u32>()) as u32;
    to.extend(len.to_le_bytes());
    let place = to.get_mut(start + size_of::<u32>()..);
    if let Some(place) = place.and_then(<[u8]>::first_chunk_mut) {
        *place = len.to_le_bytes();
    }
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..MOST).unwrap_or(value);
    to.extend(code.to_le_bytes());
    to.extend((value.len() as u16).to_le_bytes());
    to.extend_from_slice(value);
    pad(to);
}

/// Ends the options.
fn end(to: &mut Vec<u8>) {
    to.extend([0; 4]);
}

/// Fills up to a multiple of 32 bits: blocks and options begin there.
fn pad(to: &mut Vec<u8>) {
    to.resize(to.len().next_multiple_of(size_of::<u32>()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_the_format_says() {
        let mut file = Vec::new();
        section(&mut file);
        interface(&mut file, "ens1f0");
        let frame = Packet {
            interface: 0,
            time: 0x0102_0304_0506_0708,
            direction: Direction::Outbound,
            lost: 3,
            comment: "dropped",
            bytes: &[7; 61],
        };
        packet(&mut file, &frame);
        let mut rest = &file[..];
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(*rest[at..].first_chunk().unwrap());
            let len = number(4) as usize;
            assert_eq!((len % 4, number(len - 4) as usize), (0, len));
            kinds.push((number(0), len));
            rest = &rest[len..];
        }
        let expected = [SECTION, INTERFACE, PACKET];
        assert!(
            kinds.iter().map(|(kind, _)| *kind).eq(expected),
            "{kinds:?}"
        );
        let (_, len) = kinds[2];
        let block = &file[file.len() - len..];
        assert_eq!(block[12..16], 0x0102_0304_u32.to_le_bytes());
        assert_eq!(block[16..20], 0x0506_0708_u32.to_le_bytes());
        assert_eq!(block[28..92], [&[7; 61][..], &[0; 3]].concat());
        assert_eq!(block[92..108], *b"\x01\0\x07\0dropped\0\x02\0\x04\0");
        assert_eq!(block[108..112], [2, 0, 0, 0]);
    }
}
