//! Every datagram leaves once through every output.

use anyhow::Result;
use relay_tests::rules::Rule;

use super::Nics;

pub fn f1_one_input_to_one_output_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    nics.forward(&bed, &Rule::feed().outputs("out0", 1), 100, 1000)?;
    nics.forward(&bed, &Rule::feed().outputs("out0", 1), 2000, 1472)?;
    Ok(())
}

pub fn f2_one_input_to_four_outputs_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    nics.forward(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    Ok(())
}

pub fn f3_one_input_to_sixteen_outputs_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    nics.forward(&bed, &Rule::feed().outputs("out0", 16), 500, 1000)?;
    Ok(())
}

pub fn f4_outputs_spread_over_three_interfaces_are_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(3)?;
    let rule = ["out0", "out1", "out2", "out1", "out0", "out2"]
        .iter()
        .fold(Rule::feed(), |rule, interface| rule.outputs(interface, 1));
    nics.forward(&bed, &rule, 1000, 700)?;
    Ok(())
}

pub fn f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rule = Rule::feed().outputs("in0", 2).outputs("out0", 2);
    nics.forward(&bed, &rule, 1000, 700)?;
    Ok(())
}

pub fn f8_ten_thousand_datagrams_have_the_same_hash_at_the_receiver(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    nics.forward(&bed, &Rule::feed().outputs("out0", 1), 10_000, 1000)?;
    Ok(())
}
