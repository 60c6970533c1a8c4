//! Chunks and header slots against a model that knows where each of them is.

use super::*;

const SIZE: u32 = 2048;
const CHUNKS: u32 = 12;
const SLOTS: u32 = 6;
/// Tags of two ports.
const TAGS: [u16; 2] = [1, 2];

/// Numbers that look random and are the same every time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

/// Where a chunk is. In none of these places it is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    in_hand: bool,
    /// Descriptors have named it since it came into the worker's hands.
    is_shared: bool,
    descriptors: usize,
    lent_to: Option<u16>,
}

impl Place {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

struct Model {
    random: Random,
    chunks: Chunks,
    places: Vec<Place>,
    /// In the worker's hands, each with what its frame is full of.
    hands: Vec<(Chunk, u8)>,
    /// Descriptors on TX rings, each with its port's tag.
    in_flight: Vec<(Descriptor, u16)>,
    /// Chunks on FILL rings.
    lent: Vec<(FrameDesc, u16)>,
    slots: Vec<HeaderSlot>,
    /// Descriptors of header slots.
    slots_in_flight: Vec<u64>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            chunks: Chunks::new(SIZE, CHUNKS, SLOTS).unwrap(),
            places: vec![Place::default(); CHUNKS as usize],
            hands: Vec::new(),
            in_flight: Vec::new(),
            lent: Vec::new(),
            slots: Vec::new(),
            slots_in_flight: Vec::new(),
        }
    }

    fn place(&mut self, addr: usize) -> &mut Place {
        &mut self.places[addr / SIZE as usize]
    }

    /// Takes one of `list`, at random.
    fn any<T>(random: &mut Random, list: &mut Vec<T>) -> Option<T> {
        (!list.is_empty()).then(|| list.swap_remove(random.below(list.len())))
    }

    fn step(&mut self) {
        let tag = TAGS[self.random.below(TAGS.len())];
        match self.random.below(12) {
            0 | 1 => self.take(),
            2 => self.give_back(),
            3 | 4 => self.finish(tag),
            5 => self.share(tag),
            6 | 7 => self.complete(),
            // Miri has no descriptors of xsk-rs.
            8 if !cfg!(miri) => self.lend(tag),
            9 => self.receive(),
            10 => self.use_slots(),
            _ => self.close(tag),
        }
        self.check();
    }

    fn take(&mut self) {
        let Some(mut chunk) = self.chunks.take() else {
            assert!(self.places.iter().all(|place| !place.is_free()));
            return;
        };
        let place = self.place(chunk.addr);
        assert!(place.is_free(), "{place:?}");
        place.in_hand = true;
        let filling = self.random.below(256) as u8;
        self.chunks.put(&mut chunk, &[filling; 200]);
        self.hands.push((chunk, filling));
    }

    fn give_back(&mut self) {
        let unshared = self.hands.iter().position(|(chunk, _)| {
            let place = self.places[chunk.addr / SIZE as usize];
            !place.is_shared
        });
        if let Some(at) = unshared {
            let (chunk, _) = self.hands.swap_remove(at);
            *self.place(chunk.addr) = Place::default();
            self.chunks.give_back(chunk);
        }
    }

    fn finish(&mut self, tag: u16) {
        let count = self.random.below(4);
        let Some((chunk, _)) = Self::any(&mut self.random, &mut self.hands) else {
            return;
        };
        let place = self.place(chunk.addr);
        (place.in_hand, place.is_shared) = (false, false);
        place.descriptors += count;
        let desc = chunk.desc();
        self.in_flight
            .extend(std::iter::repeat_n((desc, tag), count));
        self.chunks.finish(chunk, count as u16);
    }

    fn share(&mut self, tag: u16) {
        let count = 1 + self.random.below(3);
        let Some((chunk, filling)) = Self::any(&mut self.random, &mut self.hands) else {
            return;
        };
        let place = self.place(chunk.addr);
        place.is_shared = true;
        place.descriptors += count;
        let payload = self.chunks.payload_desc(&chunk, 50..200).unwrap();
        self.in_flight
            .extend(std::iter::repeat_n((payload, tag), count));
        self.chunks.share(&chunk, count as u16);
        self.hands.push((chunk, filling));
    }

    fn complete(&mut self) {
        if let Some((desc, _)) = Self::any(&mut self.random, &mut self.in_flight) {
            self.place(desc.addr as usize).descriptors -= 1;
            self.chunks.completed(&desc);
        }
        if let Some(addr) = Self::any(&mut self.random, &mut self.slots_in_flight) {
            let (len, options) = (42, PART);
            self.chunks.completed(&Descriptor { addr, len, options });
        }
    }

    fn lend(&mut self, tag: u16) {
        if let Some(desc) = self.chunks.fill_one(tag) {
            let place = self.place(desc.addr());
            assert!(place.is_free(), "{place:?}");
            place.lent_to = Some(tag);
            self.lent.push((desc, tag));
        }
    }

    fn receive(&mut self) {
        let Some((desc, _)) = Self::any(&mut self.random, &mut self.lent) else {
            return;
        };
        self.place(desc.addr()).lent_to = None;
        if self.random.below(3) == 0 {
            self.chunks.unfilled(&desc);
            return;
        }
        self.place(desc.addr()).in_hand = true;
        // SAFETY: what was lent came back just now, once.
        let mut chunk = unsafe { self.chunks.received(&desc) };
        self.chunks.put(&mut chunk, &[7; 200]);
        self.hands.push((chunk, 7));
    }

    fn use_slots(&mut self) {
        match self.random.below(3) {
            0 => self.slots.extend(self.chunks.take_header()),
            1 => {
                let count = self.random.below(3);
                if let Some(mut slot) = Self::any(&mut self.random, &mut self.slots) {
                    self.chunks.header_mut(&mut slot).fill(9);
                    let desc = self.chunks.header_desc(&slot, 42);
                    self.slots_in_flight
                        .extend(std::iter::repeat_n(desc.addr, count));
                    self.chunks.finish_header(slot, count as u16);
                }
            }
            _ => {
                let count = 1 + self.random.below(3);
                let Some(run) = self.chunks.header_run(count) else {
                    return;
                };
                // All at a time: none of them may be another one's.
                let run: Vec<_> = run.collect();
                for (bytes, addr) in run {
                    bytes.fill(8);
                    self.slots_in_flight.push(addr);
                }
            }
        }
    }

    /// Closes the socket of a port, while the worker has no chunk in its hands.
    fn close(&mut self, tag: u16) {
        if self.random.below(8) > 0 {
            return;
        }
        while !self.hands.is_empty() {
            self.finish(tag);
        }
        let of_port = self.in_flight.extract_if(.., |(_, of)| *of == tag);
        let gone: Box<[Descriptor]> = of_port.map(|(desc, _)| desc).collect();
        for desc in &gone {
            self.place(desc.addr as usize).descriptors -= 1;
        }
        self.lent.retain(|(_, of)| *of != tag);
        for place in &mut self.places {
            if place.lent_to == Some(tag) {
                place.lent_to = None;
            }
        }
        let mut closed = Closed::new(tag, gone, CHUNKS);
        self.chunks.reclaim(&mut closed);
    }

    fn check(&self) {
        let count = |is: &dyn Fn(&Place) -> bool| {
            self.places.iter().filter(|place| is(place)).count() as u64
        };
        assert_eq!(self.chunks.free(), count(&Place::is_free));
        assert_eq!(self.chunks.fill(), count(&|place| place.lent_to.is_some()));
        let in_flight = count(&|place| place.descriptors > 0 || place.is_shared);
        assert_eq!(self.chunks.in_flight(), in_flight);
        let slots: std::collections::BTreeSet<_> = self.slots_in_flight.iter().collect();
        let in_use = slots.len() + self.slots.len();
        assert_eq!(self.chunks.header_slots_in_use(), in_use as u64);
        for (chunk, filling) in &self.hands {
            let frame = self.chunks.frame(chunk);
            assert!(frame.len() == 200 && frame.iter().all(|byte| byte == filling));
        }
    }
}

#[test]
fn every_chunk_and_slot_is_in_one_place_whatever_happens() {
    let (seeds, steps) = if cfg!(miri) { (2, 300) } else { (20, 5000) };
    for seed in 1..=seeds {
        let mut model = Model::new(seed * 0x9e37_79b9);
        for _ in 0..steps {
            model.step();
        }
        // All ends: everything is free again.
        while !model.hands.is_empty() {
            model.finish(TAGS[0]);
        }
        while !(model.in_flight.is_empty() && model.slots_in_flight.is_empty()) {
            model.complete();
        }
        while !model.lent.is_empty() {
            model.receive();
            model.give_back();
        }
        for slot in std::mem::take(&mut model.slots) {
            model.chunks.finish_header(slot, 0);
        }
        model.check();
        assert_eq!(model.chunks.free(), u64::from(CHUNKS));
        assert_eq!(model.chunks.header_slots_in_use(), 0);
    }
}
