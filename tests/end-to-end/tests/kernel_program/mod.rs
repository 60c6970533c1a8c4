//! One of the kernel programs that are built into the relay, by its name and kind.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

/// The program `name` of an object, ready to be loaded into the kernel.
pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
