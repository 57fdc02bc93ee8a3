//! policy: which ends are followed by a new run, and after how long.
//!
//! Job: the restart table and the back-off. May touch: `ids`, `unit`. Keeps: jitter only adds.

use super::{Exit, RunResult};
use crate::ids::{Millis, RunId, UnitId};
use crate::unit::{Restart, RestartPolicy};

/// "Temporary failure; try again later", of sysexits.h.
pub(super) const EX_TEMPFAIL: u8 = 75;
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;

/// What an exit says about its run.
pub fn result_of(restart: &Restart, exit: Exit) -> RunResult {
    match exit {
        Exit::Code(code) if code == 0 || restart.success_exit_status.contains(&code) => RunResult::Success,
        Exit::Code(_) => RunResult::ExitCode,
        Exit::Signal { core: true, .. } => RunResult::CoreDump,
        Exit::Signal { signal: SIGHUP | SIGINT | SIGPIPE | SIGTERM, core: false } => RunResult::Success,
        Exit::Signal { core: false, .. } => RunResult::Signal,
        Exit::Unknown => RunResult::Lost,
    }
}

/// Whether a run that ended like this is followed by another.
///
/// What a sandbox or a dependency refused is never tried again. Then `prevent_exit_status` beats `force_exit_status` beats
/// the policy.
pub fn restarts(restart: &Restart, result: RunResult, exit: Option<Exit>) -> bool {
    use RestartPolicy::{Always, No, OnAbnormal, OnAbort, OnFailure, OnSuccess, OnWatchdog};
    let code = match exit {
        Some(Exit::Code(code)) => Some(code),
        Some(Exit::Signal { .. } | Exit::Unknown) | None => None,
    };
    let listed = |list: &[u8]| code.is_some_and(|code| list.contains(&code));
    let followed_under: &[RestartPolicy] = match result {
        RunResult::Sandbox
        | RunResult::Dependency
        | RunResult::Condition
        | RunResult::StartLimitHit
        | RunResult::BudgetExhausted => return false,
        RunResult::Success => &[OnSuccess, Always],
        RunResult::ExitCode | RunResult::Resources | RunResult::Protocol => &[OnFailure, Always],
        RunResult::Signal | RunResult::CoreDump | RunResult::OomKill => &[OnFailure, OnAbnormal, OnAbort, Always],
        RunResult::Timeout | RunResult::Lost => &[OnFailure, OnAbnormal, Always],
        RunResult::Watchdog | RunResult::Progress | RunResult::Liveness => &[OnFailure, OnAbnormal, OnWatchdog, Always],
    };
    let by_policy = match restart.policy {
        No => false,
        policy @ (OnSuccess | OnFailure | OnAbnormal | OnWatchdog | OnAbort | Always) => {
            followed_under.contains(&policy)
        }
    };
    !listed(&restart.prevent_exit_status) && (listed(&restart.force_exit_status) || by_policy)
}

/// How long to wait where the run asks to be started later, by exit status 75 or by `said` (`X_LOOM_RETRY_AFTER`); then it is
/// started whatever the policy, unless that is `no`, and it is no failure. `None`: the policy decides.
pub fn asked_wait(restart: &Restart, result: RunResult, exit: Option<Exit>, said: Option<Millis>) -> Option<Millis> {
    let by_status = result == RunResult::ExitCode && exit == Some(Exit::Code(EX_TEMPFAIL));
    // The end of one that said so may have come while no loomd lived.
    let may_ask = matches!(result, RunResult::Success | RunResult::ExitCode | RunResult::Lost);
    let prevented = matches!(exit, Some(Exit::Code(code)) if restart.prevent_exit_status.contains(&code));
    let asks = (by_status || said.is_some()) && may_ask && !prevented && restart.policy != RestartPolicy::No;
    asks.then(|| said.unwrap_or_default().min(restart.retry_after_max))
}

/// d(n): the shortest wait after `failures` failures in a row. A clean end that is followed by a new run waits like the first.
pub fn back_off(restart: &Restart, failures: u32) -> Millis {
    let grown = restart.delay.0 as f64 * restart.factor.powf(f64::from(failures.max(1) - 1));
    if grown < restart.max_delay.0 as f64 { Millis(grown.ceil() as u64) } else { restart.max_delay }
}

/// d(n) · (1 + U[0, jitter]).
pub fn wait(restart: &Restart, failures: u32, chance: u64) -> Millis {
    let shortest = back_off(restart, failures);
    let share = (chance >> 11) as f64 / (1u64 << 53) as f64;
    shortest + Millis((shortest.0 as f64 * restart.jitter.max(0.0) * share) as u64)
}

/// Spreads one moment's chance over units and runs, so that a hundred that died together do not come back together.
pub fn own_chance(chance: u64, unit: &UnitId, run: RunId) -> u64 {
    // FNV-1a, then the finisher of SplitMix64.
    let mut mixed = chance ^ 0xcbf2_9ce4_8422_2325 ^ run.0;
    for byte in unit.to_string().bytes() {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
