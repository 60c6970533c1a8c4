//! The kernel programs that are built into the relay, one by one.
#![allow(dead_code, reason = "not every test needs all of it")]

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::Array,
    programs::{Program, ProgramError},
};
use relay_common::abi::{self, InterfaceValue, NearInterface};

/// The program `name` of an object, ready to be loaded into the kernel.
pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// Makes the program of an object serve an interface, given by its index.
pub fn serve(ebpf: &mut Ebpf, index: u32, value: InterfaceValue) -> Result<()> {
    let map = ebpf.take_map(abi::NEAR_INTERFACES).context("no map")?;
    let mut near: Array<_, NearInterface> = Array::try_from(map)?;
    let entry = NearInterface {
        index: index.into(),
        value,
    };
    Ok(near.set(NearInterface::place(index), entry, 0)?)
}
