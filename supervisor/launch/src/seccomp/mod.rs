//! seccomp: from the plan's groups to one filter program.
//!
//! Job: default deny by list, with the errno that makes libraries take their other way; argument rules as chapter "seccomp" of
//! the sandbox design lists them. May touch: `groups`, `assemble`, the `seccompiler` crate. May not: files, other stages.
//! Keeps: one program, at most [`PROGRAM_MAX`] instructions; every comparison is on the 32 bits that the kernel looks at for
//! that argument; verdicts that look at no argument are plain jumps on the number, so that the kernel caches them.
//!
//! Why not `seccompiler::SeccompFilter`: it has one action for what matches and one for what does not. This filter answers
//! with eight (allow, success without doing, kill, and five errnos). Stacking one `SeccompFilter` per errno works but measured
//! 320 ns on argument-checked calls, and of two filters with the same action the newest one's value wins. So the instructions
//! are assembled here, on the crate's types (`sock_filter`, `BpfProgram`, `SeccompAction`), and its `apply_filter` installs them.

mod assemble;
mod groups;

use loom_core::launch_plan::SeccompPlan;
use seccompiler::{BpfProgram, SeccompAction};
use std::collections::BTreeMap;

/// The longest program that is accepted, instructions. (The kernel's own limit is 4096.)
pub const PROGRAM_MAX: usize = 1000;

/// One comparison: `argument & mask` is one of `values`. Looks at the low 32 bits, or at the high ones if `high`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    argument: u8,
    high: bool,
    mask: u32,
    values: Vec<u32>,
}

/// If all tests hold, then `answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    all: Vec<Test>,
    answer: SeccompAction,
}

/// What one call is answered: the first rule that matches, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    rules: Vec<Rule>,
    otherwise: SeccompAction,
}

type Answers = BTreeMap<u32, Answer>;

/// Why a plan gives no program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadSeccomp {
    /// A group that this launcher does not have.
    Group(String),
    /// A socket family that this launcher does not have.
    Family(String),
    /// The program would be longer than [`PROGRAM_MAX`].
    TooLong(usize),
}

impl std::fmt::Display for BadSeccomp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadSeccomp::Group(name) => write!(f, "seccomp group `{name}` is not known"),
            BadSeccomp::Family(name) => write!(f, "socket family `{name}` is not known"),
            BadSeccomp::TooLong(length) => write!(f, "seccomp program of {length} instructions, at most {PROGRAM_MAX}"),
        }
    }
}

/// The program for `plan`, for the architecture this launcher was built for.
pub fn compile(plan: &SeccompPlan) -> Result<BpfProgram, BadSeccomp> {
    let answers = answers(plan)?;
    let program = assemble::assemble(&answers, &SeccompAction::Errno(libc::ENOSYS as u32));
    if program.len() > PROGRAM_MAX {
        return Err(BadSeccomp::TooLong(program.len()));
    }
    Ok(program)
}

fn number(call: i64) -> u32 {
    u32::try_from(call).expect("call numbers of the table are small and positive")
}

fn errno(code: i32) -> SeccompAction {
    SeccompAction::Errno(code as u32)
}

fn always(action: SeccompAction) -> Answer {
    Answer { rules: Vec::new(), otherwise: action }
}

/// `argument` (low 32 bits) is one of `values`.
fn is(argument: u8, values: &[u32]) -> Test {
    masked(argument, u32::MAX, values)
}

/// `argument & mask` (low 32 bits) is one of `values`.
fn masked(argument: u8, mask: u32, values: &[u32]) -> Test {
    Test { argument, high: false, mask, values: values.to_vec() }
}

fn allow_if(all: Vec<Test>) -> Rule {
    Rule { all, answer: SeccompAction::Allow }
}

fn only_if(all: Vec<Test>, otherwise: SeccompAction) -> Answer {
    Answer { rules: vec![allow_if(all)], otherwise }
}

fn answers(plan: &SeccompPlan) -> Result<Answers, BadSeccomp> {
    let mut answers = Answers::new();
    for group in &plan.groups {
        let calls = groups::group(group).ok_or_else(|| BadSeccomp::Group(group.clone()))?;
        for call in calls {
            answers.insert(number(call), always(SeccompAction::Allow));
        }
    }
    // An argument rule narrows what a group allows; it never adds a call that no group names.
    for (call, answer) in argument_rules() {
        if let Some(allowed) = answers.get_mut(&number(call)) {
            *allowed = answer;
        }
    }
    let metadata = if plan.fake_metadata { errno(0) } else { errno(libc::EPERM) };
    for call in groups::metadata() {
        answers.insert(number(call), always(metadata.clone()));
    }
    for call in groups::dangerous() {
        answers.insert(number(call), always(errno(libc::EPERM)));
    }
    answers.insert(number(libc::SYS_clone3), always(errno(libc::ENOSYS)));
    sockets(&plan.socket_families, &mut answers)?;
    Ok(answers)
}

/// `socket` for listed families; connect, bind, listen where there is one.
fn sockets(families: &[String], answers: &mut Answers) -> Result<(), BadSeccomp> {
    const KIND: u32 = 0xf;
    let stream = libc::SOCK_STREAM as u32;
    let mut rules = Vec::new();
    let mut listed = Vec::new();
    for family in families {
        let (number, kinds, protocols): (i32, Vec<u32>, Vec<u32>) = match family.as_str() {
            "unix" => (libc::AF_UNIX, vec![stream, libc::SOCK_DGRAM as u32, libc::SOCK_SEQPACKET as u32], vec![0]),
            "inet" => (libc::AF_INET, vec![stream], vec![0, libc::IPPROTO_TCP as u32]),
            "inet6" => (libc::AF_INET6, vec![stream], vec![0, libc::IPPROTO_TCP as u32]),
            other => return Err(BadSeccomp::Family(other.to_owned())),
        };
        listed.push(number as u32);
        rules.push(allow_if(vec![is(0, &[number as u32]), masked(1, KIND, &kinds), is(2, &protocols)]));
    }
    // libzmq aborts on any other errno when it lists interfaces.
    rules.push(Rule { all: vec![is(0, &[libc::AF_NETLINK as u32])], answer: errno(libc::EOPNOTSUPP) });
    if !listed.is_empty() {
        // A listed family, but raw or a datagram: the words a kernel without that protocol has.
        rules.push(Rule { all: vec![is(0, &listed)], answer: errno(libc::EPROTONOSUPPORT) });
    }
    answers.insert(number(libc::SYS_socket), Answer { rules, otherwise: errno(libc::EAFNOSUPPORT) });
    let reach = if listed.is_empty() { errno(libc::EPERM) } else { SeccompAction::Allow };
    for call in [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen] {
        answers.insert(number(call), always(reach.clone()));
    }
    Ok(())
}

/// Calls that are allowed for some arguments only.
fn argument_rules() -> Vec<(i64, Answer)> {
    let eperm = || errno(libc::EPERM);
    const SET_ID: u32 = 0o6000;
    let no_set_id = |mode: u8| only_if(vec![masked(mode, SET_ID, &[0])], eperm());
    // Without O_CREAT and O_TMPFILE the mode is not looked at, and may be garbage.
    let open = |flags: u8| Answer {
        rules: vec![
            allow_if(vec![masked(flags + 1, SET_ID, &[0])]),
            allow_if(vec![masked(flags, (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32, &[0])]),
        ],
        otherwise: eperm(),
    };
    let node = |mode: u8| {
        only_if(
            vec![masked(mode, SET_ID, &[0]), masked(mode, libc::S_IFMT, &[0, libc::S_IFREG, libc::S_IFIFO])],
            eperm(),
        )
    };
    // MSG_FASTOPEN connects without `connect`, past Landlock's port rule.
    let no_fast_open =
        |flags: u8| only_if(vec![masked(flags, libc::MSG_FASTOPEN as u32, &[0])], errno(libc::EOPNOTSUPP));
    let self_only = || only_if(vec![is(0, &[0])], eperm());
    let mut rules = vec![
        // New namespaces come with their own kernel interfaces. `clone3` hides its flags behind a pointer: ENOSYS.
        (libc::SYS_clone, only_if(vec![masked(0, groups::CLONE_NAMESPACES, &[0])], eperm())),
        (libc::SYS_personality, only_if(vec![is(0, &[u32::MAX])], eperm())),
        (
            libc::SYS_ioctl,
            Answer {
                rules: vec![
                    allow_if(vec![is(1, groups::IOCTLS)]),
                    Rule { all: vec![is(1, groups::IOCTLS_DANGEROUS)], answer: eperm() },
                ],
                otherwise: errno(libc::ENOTTY),
            },
        ),
        (
            libc::SYS_prctl,
            Answer {
                rules: vec![
                    allow_if(vec![is(0, groups::PRCTLS)]),
                    // Reading the ambient set; raising it is another value of the second argument.
                    allow_if(vec![is(0, &[libc::PR_CAP_AMBIENT as u32]), is(1, &[libc::PR_CAP_AMBIENT_IS_SET as u32])]),
                ],
                otherwise: eperm(),
            },
        ),
        (
            libc::SYS_fcntl,
            Answer {
                rules: vec![
                    allow_if(vec![is(1, groups::FCNTLS)]),
                    Rule { all: vec![is(1, groups::FCNTLS_DANGEROUS)], answer: eperm() },
                ],
                otherwise: errno(libc::EINVAL),
            },
        ),
        (libc::SYS_prlimit64, self_only()),
        (libc::SYS_sched_setaffinity, self_only()),
        (libc::SYS_setpriority, only_if(vec![is(0, &[0]), is(1, &[0])], eperm())),
        (libc::SYS_ioprio_set, only_if(vec![is(0, &[1]), is(1, &[0])], eperm())),
        (
            libc::SYS_sched_setscheduler,
            Answer {
                rules: vec![
                    allow_if(vec![is(0, &[0]), is(1, groups::SCHEDULERS)]),
                    // libzmq sets what it has just read, by thread id, and aborts on an error. So for an id that is not 0
                    // only the policy that everyone starts with.
                    allow_if(vec![is(1, &[libc::SCHED_OTHER as u32])]),
                ],
                otherwise: eperm(),
            },
        ),
        // Code in anonymous memory: only with the seal against execution, Linux 6.3. EACCES is what a kernel with
        // `vm.memfd_noexec` answers.
        (
            libc::SYS_memfd_create,
            only_if(
                vec![masked(1, groups::MFD_NOEXEC_SEAL | groups::MFD_EXEC, &[groups::MFD_NOEXEC_SEAL])],
                errno(libc::EACCES),
            ),
        ),
        (libc::SYS_openat, open(2)),
        (libc::SYS_mkdirat, no_set_id(2)),
        (libc::SYS_mknodat, node(2)),
        (libc::SYS_sendto, no_fast_open(3)),
        (libc::SYS_sendmsg, no_fast_open(2)),
        (libc::SYS_sendmmsg, no_fast_open(3)),
        (libc::SYS_socketpair, only_if(vec![is(0, &[libc::AF_UNIX as u32])], errno(libc::EAFNOSUPPORT))),
        (
            libc::SYS_setsockopt,
            Answer {
                rules: vec![Rule {
                    all: vec![is(1, &[libc::SOL_SOCKET as u32]), is(2, groups::SOCKET_OPTIONS_DANGEROUS)],
                    answer: eperm(),
                }],
                otherwise: SeccompAction::Allow,
            },
        ),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.extend([
        (libc::SYS_open, open(1)),
        (libc::SYS_creat, no_set_id(1)),
        (libc::SYS_mkdir, no_set_id(1)),
        (libc::SYS_mknod, node(1)),
    ]);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(families: &[&str]) -> SeccompPlan {
        SeccompPlan {
            groups: vec!["@base".into(), "@file".into(), "@socket".into()],
            fake_metadata: true,
            socket_families: families.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    fn ask(program: &BpfProgram, call: i64, args: [u64; 6]) -> u32 {
        assemble::interpret(program, assemble::AUDIT_ARCH, number(call), args)
    }

    fn action(action: SeccompAction) -> u32 {
        action.into()
    }

    #[test]
    fn each_call_is_answered_as_the_table_says() {
        let program = compile(&plan(&["unix", "inet", "inet6"])).unwrap();
        let (allow, eperm, enosys) =
            (action(SeccompAction::Allow), action(errno(libc::EPERM)), action(errno(libc::ENOSYS)));
        let all_ones = 0xffff_ffff_0000_0000;
        #[rustfmt::skip]
        let table: &[(&str, i64, [u64; 6], u32)] = &[
            ("reading",                        libc::SYS_read, [0; 6], allow),
            ("a mount",                        libc::SYS_mount, [0; 6], eperm),
            ("ptrace",                         libc::SYS_ptrace, [0; 6], eperm),
            ("a second filter",                libc::SYS_seccomp, [1, 0, 0, 0, 0, 0], eperm),
            ("a second filter by prctl",       libc::SYS_prctl, [22, 2, 0, 0, 0, 0], eperm),
            ("clone3",                         libc::SYS_clone3, [0; 6], enosys),
            ("io_uring",                       libc::SYS_io_uring_setup, [0; 6], enosys),
            ("a call of the future",           5000, [0; 6], enosys),
            ("a thread",                       libc::SYS_clone, [0x3d_0f00, 0, 0, 0, 0, 0], allow),
            ("a user namespace",               libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0], eperm),
            ("chmod",                          libc::SYS_fchmodat, [0; 6], action(errno(0))),
            ("a tcp socket",                   libc::SYS_socket, [2, 1 | 0o2000000, 6, 0, 0, 0], allow),
            ("a tcp socket, high bits set",    libc::SYS_socket, [all_ones | 2, 1, 0, 0, 0, 0], allow),
            ("an mptcp socket",                libc::SYS_socket, [2, 1, 262, 0, 0, 0], action(errno(libc::EPROTONOSUPPORT))),
            ("a udp socket",                   libc::SYS_socket, [2, 2, 0, 0, 0, 0], action(errno(libc::EPROTONOSUPPORT))),
            ("netlink",                        libc::SYS_socket, [16, 3, 0, 0, 0, 0], action(errno(libc::EOPNOTSUPP))),
            ("vsock",                          libc::SYS_socket, [40, 1, 0, 0, 0, 0], action(errno(libc::EAFNOSUPPORT))),
            ("TIOCSTI",                        libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0], eperm),
            ("TIOCSTI, high bits set",         libc::SYS_ioctl, [0, all_ones | 0x5412, 0, 0, 0, 0], eperm),
            ("window size",                    libc::SYS_ioctl, [0, 0x5413, 0, 0, 0, 0], allow),
            ("an unknown ioctl",               libc::SYS_ioctl, [0, 0x1234, 0, 0, 0, 0], action(errno(libc::ENOTTY))),
            ("a set-uid file",                 libc::SYS_openat, [0, 0, 0o100 | 1, 0o4755, 0, 0], eperm),
            ("garbage mode without creation",  libc::SYS_openat, [0, 0, 0, 0o4755, 0, 0], allow),
            ("a set-uid O_TMPFILE",            libc::SYS_openat, [0, 0, libc::O_TMPFILE as u64 | 1, 0o4755, 0, 0], eperm),
            ("a device node",                  libc::SYS_mknodat, [0, 0, 0o20600, 0, 0, 0], eperm),
            ("a fifo",                         libc::SYS_mknodat, [0, 0, 0o10600, 0, 0, 0], allow),
            ("own limits",                     libc::SYS_prlimit64, [0; 6], allow),
            ("another's limits",               libc::SYS_prlimit64, [1, 0, 0, 0, 0, 0], eperm),
            ("executable anonymous memory",    libc::SYS_memfd_create, [0, 1, 0, 0, 0, 0], action(errno(libc::EACCES))),
            ("sealed anonymous memory",        libc::SYS_memfd_create, [0, 9, 0, 0, 0, 0], allow),
            ("both seals",                     libc::SYS_memfd_create, [0, 0x18, 0, 0, 0, 0], action(errno(libc::EACCES))),
            ("fast open",                      libc::SYS_sendto, [0, 0, 0, 0x2000_4000, 0, 0], action(errno(libc::EOPNOTSUPP))),
            ("a send",                         libc::SYS_sendto, [0, 0, 0, 0x4000, 0, 0], allow),
            ("own owner of signals",           libc::SYS_fcntl, [0, 8, 0, 0, 0, 0], eperm),
            ("a record lock",                  libc::SYS_fcntl, [0, 6, 0, 0, 0, 0], allow),
            ("a socket filter",                libc::SYS_setsockopt, [0, 1, 26, 0, 0, 0], eperm),
            ("a socket option",                libc::SYS_setsockopt, [0, 1, 2, 0, 0, 0], allow),
            ("personality query",              libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0], allow),
            ("address space layout off",       libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0], eperm),
            ("real-time scheduling",           libc::SYS_sched_setscheduler, [0, 1, 0, 0, 0, 0], eperm),
            ("idle scheduling of another",     libc::SYS_sched_setscheduler, [7, 5, 0, 0, 0, 0], eperm),
        ];
        for (row, call, args, want) in table {
            let got = ask(&program, *call, *args);
            assert_eq!(got, *want, "{row}: got {got:#x}, want {want:#x}");
        }
    }

    #[test]
    fn another_architecture_ends_the_process() {
        let program = compile(&plan(&[])).unwrap();
        let kill = action(SeccompAction::KillProcess);
        assert_eq!(assemble::interpret(&program, 0x4000_0003, 4, [0; 6]), kill, "32-bit x86");
        assert_eq!(assemble::interpret(&program, assemble::AUDIT_ARCH, 0x4000_0000 | 1, [0; 6]), kill, "x32");
    }

    #[test]
    fn no_family_means_no_socket() {
        let program = compile(&plan(&[])).unwrap();
        assert_eq!(ask(&program, libc::SYS_socket, [1, 1, 0, 0, 0, 0]), action(errno(libc::EAFNOSUPPORT)));
        assert_eq!(ask(&program, libc::SYS_connect, [0; 6]), action(errno(libc::EPERM)));
        assert_eq!(ask(&program, libc::SYS_socketpair, [1, 1, 0, 0, 0, 0]), action(SeccompAction::Allow));
    }

    #[test]
    fn every_profile_fits_in_the_program_limit() {
        let program = compile(&plan(&["unix", "inet", "inet6"])).unwrap();
        assert!(program.len() <= PROGRAM_MAX, "{} instructions", program.len());
        println!("{} instructions", program.len());
    }

    #[test]
    fn an_unknown_group_or_family_is_an_error() {
        let mut wrong = plan(&[]);
        wrong.groups.push("@everything".into());
        assert_eq!(compile(&wrong), Err(BadSeccomp::Group("@everything".into())));
        assert_eq!(compile(&plan(&["netlink"])), Err(BadSeccomp::Family("netlink".into())));
    }

    #[test]
    fn no_dangerous_call_is_in_a_group_that_allows() {
        for name in groups::NAMES {
            let allowed = groups::group(name).unwrap();
            for call in groups::dangerous().into_iter().chain(groups::metadata()) {
                assert!(!allowed.contains(&call), "call {call} is refused and in {name}");
            }
        }
    }
}
