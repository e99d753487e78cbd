#!/bin/sh
# A compiler of this workspace's crates, for RUSTC_WORKSPACE_WRAPPER: as cargo-fuzz has it, without a sanitizer, since there
# is next to no unsafe code to watch, so that it works with a stable compiler. Crates of others are compiled as ever, once
# for tests and for fuzzing.
case " $* " in
*" --crate-name build_script_build "*) exec "$@" ;;
*" --crate-name "*) ;;
*) exec "$@" ;;
esac
exec "$@" --cfg fuzzing -Copt-level=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
