//! The order of the six steps is a type: programs that skip, repeat or reorder a step, or that make a later state by
//! hand, do not compile (RW-5.0). Each is a file in `tests/order/`, with what the compiler says beside it; the one
//! program in the right order compiles.

#[test]
fn rw_5_0_a_wrong_order_of_steps_does_not_compile() {
    let programs = trybuild::TestCases::new();
    programs.compile_fail("tests/order/skipped.rs");
    programs.compile_fail("tests/order/repeated.rs");
    programs.compile_fail("tests/order/reordered.rs");
    programs.compile_fail("tests/order/made_by_hand.rs");
}
