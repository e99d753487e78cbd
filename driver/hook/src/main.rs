//! The program: everything is in the library, where tests and the fuzzer reach it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    aliquot_hook::main()
}
