//! The doctor counts the data that years of use leave: the stores with their sizes, and the objects that a forced push
//! left in the mirror.

use serde_json::Value;

use crate::host::{Host, git};

#[test]
fn the_doctor_counts_the_stores_and_what_a_forced_push_left_in_the_mirror() {
    let host = Host::running();
    let store = |name: &str| {
        let report: Value = serde_json::from_str(&host.tool(["doctor", "--json"]).out).unwrap();
        report["stores"].as_array().unwrap().iter().find(|store| store["store"] == name).unwrap().clone()
    };
    assert_eq!(store("mirror")["unreachable"]["objects"], 0);
    assert!(store("environments")["bytes"].as_u64().unwrap() > 0);
    assert_eq!(store("stash")["bytes"].as_u64().unwrap(), store("previous")["bytes"].as_u64().unwrap());
    let noise: String =
        (0..20_000_u64).map(|number| format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    host.push(&[("big.txt", &noise)]);
    host.tool(["plan"]).expect(0);
    host.tool(["run"]).expect(0);
    git(&host.work(), ["reset", "--quiet", "--hard", "HEAD~1"]);
    // As many successful runs as are kept for a rollback.
    for number in 0..4 {
        host.push(&[("version.txt", &format!("{number}\n"))]);
        host.tool(["run"]).expect(0);
    }
    let mirror = store("mirror");
    assert!(mirror["unreachable"]["objects"].as_u64().unwrap() >= 2, "{mirror}");
    assert!(mirror["unreachable"]["bytes"].as_u64().unwrap() > 50_000, "{mirror}");
    assert!(mirror["bytes"].as_u64() > mirror["unreachable"]["bytes"].as_u64(), "{mirror}");
    host.tool(["doctor"]).prints("that nothing reaches").prints("  stash ");
}
