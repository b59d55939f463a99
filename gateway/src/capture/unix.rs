//! The hook on connects of unix sockets, which aya doesn't know: its program is taken from the object
//! and loaded here.

use std::io;
use std::os::fd::OwnedFd;

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

use super::btf::Types;
use super::kernel;

/// What the program is called in the object.
pub(super) const CONNECT_UNIX: &str = "connect_unix";

/// Where the program expects the members of the kernel's `bpf_sock_addr_kern`. Before Linux 6.7 it has
/// no length of the address, as it knows no unix sockets.
const LAYOUT: [(&str, u64); 2] = [("uaddr", 8), ("uaddrlen", 32)];

/// Loads the program, or says why this kernel can't have it.
pub(super) fn load(object: &[u8], types: &Types) -> Result<OwnedFd, String> {
    for (member, place) in LAYOUT {
        match types.offset("bpf_sock_addr_kern", member) {
            Some(found) if found == place => {}
            Some(found) => {
                return Err(format!(
                    "the kernel's bpf_sock_addr_kern has {member} at {found}, not at {place}"
                ));
            }
            None => return Err("the kernel is older than Linux 6.7".into()),
        }
    }
    let instructions = instructions(object)?;
    kernel::load_connect_unix(&instructions).map_err(|error| refusal(&error))
}

/// The program's instructions. It uses no maps and no functions, so nothing is left to be relocated.
fn instructions(object: &[u8]) -> Result<Vec<bpf_insn>, String> {
    let object = Object::parse(object).map_err(|error| error.to_string())?;
    let program = object.programs.get(CONNECT_UNIX);
    let function = program.and_then(|program| object.functions.get(&program.function_key()));
    function
        .map(|function| function.instructions.clone())
        .ok_or_else(|| format!("the eBPF object has no {CONNECT_UNIX}"))
}

fn refusal(error: &io::Error) -> String {
    format!("the kernel doesn't load the program: {error}")
}
