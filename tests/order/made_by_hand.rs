//! A later state is made by hand, or out of an earlier one, or a copy is kept.

use ladylinux_refresh::installation::Installation;
use ladylinux_refresh::refresh::{Account, Planned, Refresh, Running, Stopped};

fn from_nothing(on: &Installation, account: Account) -> Refresh<'_, Running> {
    Refresh { on, account, at: Running }
}

fn from_an_earlier_one<'a>(planned: Refresh<'a, Planned>) -> Refresh<'a, Running> {
    Refresh { at: Running, ..planned }
}

fn by_the_programs_own_way<'a>(stopped: Refresh<'a, Stopped>) {
    let _ = stopped.advance(ladylinux_refresh::event::Phase::Status, |_, _, _| Ok((Running, String::new())));
}

fn a_copy<'a>(planned: Refresh<'a, Planned>) -> Refresh<'a, Planned> {
    planned.clone()
}

fn main() {}
