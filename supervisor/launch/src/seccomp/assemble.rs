//! assemble: answers by call number → filter instructions.
//!
//! Job: a search tree over numbers, then the rules of each call. May touch: `seccompiler`'s instruction type.
//! Keeps: a number is found in at most twice log2(ranges) jumps; every path ends in a return.

use super::{Answer, Answers, Rule};
use seccompiler::{BpfProgram, SeccompAction, sock_filter};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const GO: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGS: u32 = 16;

/// Numbers from here on are x32 calls (they carry the architecture value of x86-64), or no calls at all.
const FIRST_FOREIGN_NUMBER: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_00b7;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> sock_filter {
    let near = |distance: usize| u8::try_from(distance).expect("a rule's tests are shorter than 255 instructions");
    sock_filter { code, jt: near(jt), jf: near(jf), k }
}

fn answer_with(action: &SeccompAction) -> sock_filter {
    op(RETURN, action.clone().into())
}

/// The whole program; `default` answers every number that `answers` does not have.
pub(super) fn assemble(answers: &Answers, default: &SeccompAction) -> BpfProgram {
    let kill = answer_with(&SeccompAction::KillProcess);
    let mut program = vec![
        op(LOAD, AT_ARCH),
        jump(IF_EQUAL, AUDIT_ARCH, 1, 0),
        kill.clone(),
        op(LOAD, AT_NUMBER),
        jump(IF_AT_LEAST, FIRST_FOREIGN_NUMBER, 0, 1),
        kill,
    ];
    program.extend(tree(&ranges(answers, default)));
    program
}

/// First number → answer, up to the next one. Neighbours with the same answer are one.
fn ranges(answers: &Answers, default: &SeccompAction) -> Vec<(u32, Answer)> {
    let default = Answer { rules: Vec::new(), otherwise: default.clone() };
    let mut ranges: Vec<(u32, Answer)> = vec![(0, default.clone())];
    let mut push = |first: u32, answer: &Answer| {
        let last = ranges.last_mut().expect("starts with one");
        if last.0 == first {
            last.1 = answer.clone();
        } else if last.1 != *answer {
            ranges.push((first, answer.clone()));
        }
    };
    let mut next = 0;
    for (number, answer) in answers {
        if *number > next {
            push(next, &default);
        }
        push(*number, answer);
        next = number + 1;
    }
    push(next, &default);
    ranges
}

/// The number is in the accumulator; `ranges` is not empty.
fn tree(ranges: &[(u32, Answer)]) -> BpfProgram {
    if let [(_, only)] = ranges {
        return leaf(only);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (tree(low), tree(high));
    let first = high[0].0;
    let mut code = if below.len() <= usize::from(u8::MAX) {
        vec![jump(IF_AT_LEAST, first, below.len(), 0)]
    } else {
        // Conditional jumps reach 255 instructions; a plain one reaches any.
        vec![jump(IF_AT_LEAST, first, 0, 1), op(GO, below.len() as u32)]
    };
    code.extend(below);
    code.extend(above);
    code
}

fn leaf(answer: &Answer) -> BpfProgram {
    let mut code: BpfProgram = answer.rules.iter().flat_map(rule).collect();
    code.push(answer_with(&answer.otherwise));
    code
}

/// Falls through to what follows if a test fails.
fn rule(rule: &Rule) -> BpfProgram {
    let mut code = vec![answer_with(&rule.answer)];
    for test in rule.all.iter().rev() {
        let to_end = code.len();
        let offset = AT_ARGS + 8 * u32::from(test.argument) + if test.high { 4 } else { 0 };
        let mut before = vec![op(LOAD, offset)];
        if test.mask != u32::MAX {
            before.push(op(AND, test.mask));
        }
        let (last, others) = test.values.split_last().expect("a test has a value");
        for (index, value) in others.iter().enumerate() {
            before.push(jump(IF_EQUAL, *value, others.len() - index, 0));
        }
        before.push(jump(IF_EQUAL, *last, 0, to_end));
        before.extend(code);
        code = before;
    }
    code
}

/// What the kernel would answer; for tests.
#[cfg(test)]
pub(super) fn interpret(program: &BpfProgram, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let (mut at, mut value) = (0, 0u32);
    loop {
        let step = &program[at];
        at += 1;
        let taken = match step.code {
            LOAD => {
                value = match step.k {
                    AT_NUMBER => number,
                    AT_ARCH => arch,
                    offset => {
                        let word = (offset - AT_ARGS) / 4;
                        (args[word as usize / 2] >> (32 * (word % 2))) as u32
                    }
                };
                0
            }
            AND => {
                value &= step.k;
                0
            }
            GO => step.k as usize,
            IF_EQUAL => usize::from(if value == step.k { step.jt } else { step.jf }),
            IF_AT_LEAST => usize::from(if value >= step.k { step.jt } else { step.jf }),
            RETURN => return step.k,
            other => panic!("instruction {other:#x}"),
        };
        at += taken;
    }
}
