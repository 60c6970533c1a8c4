//! What the XDP program costs per frame that it takes: the instructions that the kernel runs,
//! counted in the program that the verifier made of it, with the look-ups that it inlines, and the
//! calls of helpers, each of which costs as much as dozens of instructions. Caches are not in the
//! count.
//!
//! And what they cost the verifier, which decides how long a relay takes to start: it follows every
//! path, and refuses a program of more than a million instructions.
#![expect(clippy::panic, reason = "a program that cannot be followed, in a test")]

mod kernel_program;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::Map;
use aya::programs::{ProgramInfo, SocketFilter, Xdp};
use etherparse::PacketBuilder;
use relay_common::abi;
use relay_common::matching::FlowValue;
use relay_common::wire::ethernet::field as ethernet;

/// Instructions for a frame that matches.
const MOST: usize = 264;
/// The same with a tag, over IPv6, and both.
const MOST_TAGGED: usize = 291;
const MOST_IPV6: usize = 277;
const MOST_TAGGED_IPV6: usize = 306;
/// Instructions that the verifier may follow.
const MOST_FOLLOWED: u32 = 60_000;
/// Calls: the search for the flow, and the redirect.
const CALLS: usize = 2;

const XDP_REDIRECT: u64 = 4;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// The program as the kernel runs it (`xlated_prog_insns` in `struct bpf_prog_info`), eight bytes
/// per instruction.
fn translated(program: &Xdp) -> Result<Vec<u64>> {
    // `struct bpf_prog_info` (linux/bpf.h): `xlated_prog_len` is in bytes 20 to 23,
    // `xlated_prog_insns` in bytes 32 to 39.
    let mut info = [0_u64; 32];
    let fd = program.fd()?.as_fd().as_raw_fd();
    let ask = |info: &mut [u64; 32]| {
        let len = u64::from(size_of_val(info) as u32) << 32;
        let attributes = [
            fd as u64 | len,
            info.as_mut_ptr().expose_provenance() as u64,
        ];
        // SAFETY: `union bpf_attr` of this command: descriptor, length, and address of the
        // structure. That outlives the call, and so do the instructions that it points to.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET_INFO_BY_FD,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        ensure!(result == 0, "bpf: {}", std::io::Error::last_os_error());
        Ok(())
    };
    ask(&mut info)?;
    let bytes = info[2] >> 32;
    let mut instructions = vec![0_u64; bytes as usize / 8];
    info = [0; 32];
    info[2] = bytes << 32;
    info[4] = instructions.as_mut_ptr().expose_provenance() as u64;
    ask(&mut info)?;
    Ok(instructions)
}

/// The kinds of pointers, in their highest bits; a pointer to a map has its number in bits 32 to
/// 47.
const STACK: u64 = 1 << 48;
const FRAME: u64 = 2 << 48;
const CONTEXT: u64 = 3 << 48;
const KERNEL: u64 = 4 << 48;
const MAP: u64 = 5 << 48;
const VALUE: u64 = 6 << 48;
const FLOW: u64 = 7 << 48;
const STACK_LEN: usize = 512;

/// Runs a program step by step: a look-up of a flow finds one, every other a value of zeros, except
/// in [`abi::OWN`] and [`abi::OWN6`]; presence bits are set and clear accordingly, and every socket
/// is there.
struct Machine<'a> {
    registers: [u64; 11],
    stack: [u8; STACK_LEN],
    frame: &'a [u8],
    maps: HashMap<u64, &'static str>,
    calls: usize,
}

impl Machine<'_> {
    fn load(&self, address: u64, len: usize) -> u64 {
        let offset = (address & 0xffff_ffff) as usize;
        let from = |bytes: &[u8]| {
            let mut value = [0; 8];
            value[..len].copy_from_slice(&bytes[offset..offset + len]);
            u64::from_le_bytes(value)
        };
        match (address >> 48 << 48, len) {
            (STACK, _) => from(&self.stack),
            (FRAME, _) => from(self.frame),
            // struct xdp_buff (include/net/xdp.h) begins with `data` and `data_end`.
            (CONTEXT, 8) if offset == 0 => FRAME,
            (CONTEXT, 8) if offset == 8 => FRAME + self.frame.len() as u64,
            (CONTEXT | KERNEL, 8) => KERNEL,
            // An index of an interface or a queue.
            (CONTEXT | KERNEL, 4) => 0,
            (MAP, 8) => match self.map(address) {
                // The values of an array lie in the map itself.
                Some(abi::NEAR_INTERFACES) => 0,
                Some(abi::PRESENCE) => u64::MAX,
                Some(abi::OWN_PRESENCE) => 0,
                // The pointer to the values of the CPUs.
                _ => VALUE,
            },
            (VALUE, _) => 0,
            (FLOW, 8) => FlowValue::new(0, None).bits(),
            _ => panic!("a load of {len} bytes from {address:#x}"),
        }
    }

    fn store(&mut self, address: u64, len: usize, value: u64) {
        let offset = (address & 0xffff_ffff) as usize;
        match address >> 48 << 48 {
            STACK => self.stack[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]),
            VALUE => {}
            _ => panic!("a store to {address:#x}"),
        }
    }

    /// The name of the map that an address is in.
    fn map(&self, address: u64) -> Option<&'static str> {
        let is_map = address >> 48 << 48 == MAP;
        let name = self.maps.get(&(address >> 32 & 0xffff));
        name.copied().filter(|_| is_map)
    }

    /// The result of a helper, which depends on the map in its first argument.
    fn call(&self) -> u64 {
        let map = self.registers[1];
        match self.map(map) {
            Some(abi::SOCKETS) => XDP_REDIRECT,
            Some(abi::OWN | abi::OWN6) => 0,
            Some(abi::FLOWS | abi::FLOWS6) => FLOW,
            Some(_) => VALUE,
            None => panic!("a call without a map: {map:#x}"),
        }
    }

    /// Runs to the end; returns the number of instructions.
    fn run(&mut self, program: &[u64]) -> usize {
        let mut at = 0;
        for count in 1..10_000 {
            let instruction = program[at];
            at += 1;
            let code = instruction as u8;
            let (to, from) = (
                (instruction >> 8 & 0xf) as usize,
                (instruction >> 12 & 0xf) as usize,
            );
            let offset = i64::from((instruction >> 16) as i16);
            let immediate = i64::from((instruction >> 32) as i32) as u64;
            let operand = if code & 8 != 0 {
                self.registers[from]
            } else {
                immediate
            };
            let len = [4, 2, 1, 8][usize::from(code >> 3 & 3)];
            let near = |base: u64| base.wrapping_add_signed(offset);
            match code & 7 {
                // LD: a 64-bit immediate takes two instructions.
                0 => {
                    self.registers[to] = match from {
                        0 => immediate & 0xffff_ffff | program[at] >> 32 << 32,
                        1 => MAP | (immediate & 0xffff) << 32,
                        _ => VALUE,
                    };
                    at += 1;
                }
                1 => self.registers[to] = self.load(near(self.registers[from]), len),
                2 => self.store(near(self.registers[to]), len, immediate),
                3 => self.store(near(self.registers[to]), len, self.registers[from]),
                5 | 6 => match code >> 4 {
                    8 => {
                        self.calls += 1;
                        self.registers[0] = self.call();
                    }
                    9 => return count,
                    jump => {
                        let mut sides = [self.registers[to], operand];
                        if code & 7 == 6 {
                            sides = sides.map(|side| side & 0xffff_ffff);
                        }
                        if takes(jump, sides) {
                            at = at.wrapping_add_signed(offset as isize);
                        }
                    }
                },
                class => {
                    let value = match (class, code >> 4) {
                        // Only the 32-bit class has byte order instructions that depend on the
                        // host.
                        (4, 0xd) if code & 8 != 0 => {
                            self.registers[to].swap_bytes() >> (64 - immediate)
                        }
                        (_, 0xd) => panic!("byte order: {instruction:#x}"),
                        (7, operation) => compute(operation, self.registers[to], operand),
                        (_, operation) => {
                            let (left, right) = (self.registers[to] as u32, operand as u32);
                            compute(operation, left.into(), right.into()) & 0xffff_ffff
                        }
                    };
                    self.registers[to] = value;
                }
            }
        }
        panic!("no end");
    }
}

/// Whether a jump is taken.
fn takes(jump: u8, [left, right]: [u64; 2]) -> bool {
    match jump {
        0 => true,
        1 => left == right,
        2 => left > right,
        3 => left >= right,
        4 => left & right != 0,
        5 => left != right,
        6 => left as i64 > right as i64,
        7 => left as i64 >= right as i64,
        0xa => left < right,
        0xb => left <= right,
        0xc => (left as i64) < right as i64,
        0xd => left as i64 <= right as i64,
        _ => panic!("jump {jump:#x}"),
    }
}

fn compute(operation: u8, left: u64, right: u64) -> u64 {
    match operation {
        0 => left.wrapping_add(right),
        1 => left.wrapping_sub(right),
        2 => left.wrapping_mul(right),
        4 => left | right,
        5 => left & right,
        6 => left << (right & 63),
        7 => left >> (right & 63),
        8 => left.wrapping_neg(),
        0xa => left ^ right,
        0xb => right,
        0xc => (left as i64 >> (right & 63)) as u64,
        _ => panic!("operation {operation:#x}"),
    }
}

/// The ids of the maps that the program uses, with their names.
fn maps(ebpf: &Ebpf) -> Result<HashMap<u64, &'static str>> {
    let names = [
        abi::NEAR_INTERFACES,
        abi::INTERFACES,
        abi::PRESENCE,
        abi::OWN_PRESENCE,
        abi::FLOWS,
        abi::FLOWS6,
        abi::OWN,
        abi::OWN6,
        abi::SOCKETS,
        abi::COUNTERS,
    ];
    let mut maps = HashMap::new();
    for name in names {
        let map = ebpf.map(name).with_context(|| format!("no map {name}"))?;
        let (Map::HashMap(data) | Map::XskMap(data) | Map::PerCpuArray(data) | Map::Array(data)) =
            map
        else {
            panic!("{name} is of another kind");
        };
        maps.insert(u64::from(data.info()?.id()) & 0xffff, name);
    }
    Ok(maps)
}

/// A datagram as a NIC delivers it.
fn frame(payload: usize) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([10, 1, 0, 2], [239, 1, 1, 1], 1)
        .udp(40_000, 5001)
        .write(&mut frame, &vec![1; payload])?;
    Ok(frame)
}

/// The same over IPv6.
fn frame6(payload: usize) -> Result<Vec<u8>> {
    let mut source = [0; 16];
    source[..2].copy_from_slice(&[0x20, 0x01]);
    let mut group = [0; 16];
    group[..2].copy_from_slice(&[0xff, 0x3e]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 0])
        .ipv6(source, group, 1)
        .udp(40_000, 5001)
        .write(&mut frame, &vec![1; payload])?;
    Ok(frame)
}

/// The same behind a tag.
fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    let tag = ethernet::TYPE.start;
    frame.splice(tag..tag, [0x81, 0x00, 0x00, 0x07]);
    frame
}

#[test]
fn a_frame_that_is_taken_costs_the_xdp_program_two_calls_and_few_instructions() -> Result<()> {
    let mut ebpf = relay::kernel::load()?;
    let program: &mut Xdp = kernel_program::program(&mut ebpf, abi::PROGRAM)?;
    program.load()?;
    let instructions = translated(program)?;
    let cases = [
        ("IPv4", frame(0)?, MOST),
        ("IPv4", frame(7)?, MOST),
        ("IPv4", frame(1000)?, MOST),
        ("tagged IPv4", tagged(frame(7)?), MOST_TAGGED),
        ("IPv6", frame6(7)?, MOST_IPV6),
        ("tagged IPv6", tagged(frame6(7)?), MOST_TAGGED_IPV6),
    ];
    for (what, frame, most) in &cases {
        let mut machine = Machine {
            registers: [0; 11],
            stack: [0; STACK_LEN],
            frame,
            maps: maps(&ebpf)?,
            calls: 0,
        };
        machine.registers[1] = CONTEXT;
        machine.registers[10] = STACK + STACK_LEN as u64;
        let count = machine.run(&instructions);
        assert_eq!(
            machine.registers[0], XDP_REDIRECT,
            "the frame does not match"
        );
        println!("{what}: {count} of {} instructions", instructions.len());
        assert!(count <= *most, "{what}: {count} instructions");
        assert_eq!(machine.calls, CALLS, "{what}: calls");
    }
    Ok(())
}

#[test]
fn the_verifier_follows_few_instructions_of_either_program() -> Result<()> {
    let mut ebpf = relay::kernel::load()?;
    let program: &mut Xdp = kernel_program::program(&mut ebpf, abi::PROGRAM)?;
    program.load()?;
    let xdp = followed(&program.info()?)?;
    let mut ebpf = relay::kernel::load_filter()?;
    let program: &mut SocketFilter = kernel_program::program(&mut ebpf, abi::FILTER)?;
    program.load()?;
    let filter = followed(&program.info()?)?;
    println!("the verifier followed {xdp} and {filter} instructions");
    assert!(xdp <= MOST_FOLLOWED && filter <= MOST_FOLLOWED);
    Ok(())
}

/// How many instructions of a program the verifier followed.
fn followed(info: &ProgramInfo) -> Result<u32> {
    let followed = info.verified_instruction_count();
    followed.context("the kernel does not say; Linux 5.16 and newer do")
}
