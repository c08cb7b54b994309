"""The reports' own words in English and Chinese; no figure and no layout is in here.

Names of scenarios, taps and tools, and what checks and witnesses wrote, stay as they are. Every language has every
word: they are fields, so that the type checker finds a gap. Braces name the facts that a sentence is filled with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from labctl.model.comparison import CautionKind, ChangeVerdict, RefusalKind
from labctl.model.result import Verdict


class Language(StrEnum):
    """The values of `--lang`."""

    ENGLISH = "en"
    CHINESE = "zh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything that a report says in one language.

    `labels` are short names of metrics that fit a table; a metric that is not in there keeps its check's label.
    """

    tag: str
    against: str
    headline_difference: str
    headline_negligible: str
    headline_same: str
    headline_undetected: str
    headline_undetected_unknown: str
    headline_refused: str
    headline_nothing: str
    joiner: str
    to: str
    placements: Mapping[str, str]
    verdicts: Mapping[ChangeVerdict, str]
    undetected_short: str
    undetected_long: str
    undetected_note: str
    secondary: str
    refusals: Mapping[RefusalKind, str]
    cautions: Mapping[CautionKind, str]
    check_verdicts: Mapping[Verdict, str]
    labels: Mapping[str, str]
    metric: str
    change: str
    interval: str
    pairs: str
    verdict: str
    detectable: str
    p_holm: str
    margin: str
    mode_in_force: str
    asked: str
    found: str
    proven: str
    not_proven: str
    evidence: str
    statements: str
    signatures: str
    signature_legend: str
    silent_taps: str
    differs: str
    warnings: str
    refused_rows: str
    environment: str
    results: str
    method: str
    method_paired: str
    method_unpaired: str
    samples: str
    samples_in_order: str
    differences_in_order: str
    block: str
    side: str
    run_order: str
    raw_data: str
    value: str
    median: str
    check: str
    pair: str
    placement: str
    seen: str
    expected: str
    as_expected: str
    not_as_expected: str
    command: str
    primary_note: str
    better_lower: str
    better_higher: str
    started_at: str
    data_note: str


ENGLISH = Words(
    tag="en",
    against="{a} (A) against {b} (B)",
    headline_difference="{what}: {b} is {size} {word} ({level}: {low}–{high}) than {a}",
    headline_negligible="{what}: {b} and {a} differ by {change} ({level}: {low} to {high}), "
    "less than the margin of {margin}",
    headline_same="{what}: {b} and {a} are the same within {margin} ({level}: {low} to {high})",
    headline_undetected="{what}: no difference detectable between {a} and {b}; this run could have seen {detectable} "
    "or more",
    headline_undetected_unknown="{what}: no difference detectable between {a} and {b} ({level}: {low} to {high})",
    headline_refused="{what}: no verdict, {reason}",
    headline_nothing="Nothing was measured",
    joiner=" ",
    to="{low} to {high}",
    placements={"same-node": "same-node", "cross-node": "cross-node"},
    verdicts={
        ChangeVerdict.FASTER: "faster",
        ChangeVerdict.SLOWER: "slower",
        ChangeVerdict.CHEAPER: "cheaper",
        ChangeVerdict.DEARER: "dearer",
        ChangeVerdict.NEGLIGIBLE: "negligible",
        ChangeVerdict.SAME: "same",
        ChangeVerdict.UNDETECTED: "undetected",
        ChangeVerdict.REFUSED: "refused",
    },
    undetected_short="undetected (≥ {detectable})",
    undetected_long="no difference detectable: this run could have seen ≥ {detectable}",
    undetected_note="~ no difference detectable; ≥ X % is the change that this run would have found in 8 of 10 cases.",
    secondary="secondary",
    refusals={
        RefusalKind.NOT_PROVEN: "the mode in force of {side} is not proven: {reason}",
        RefusalKind.RUN_FAILED: "{count} of {runs} runs did not pass; the first, side {side} in block {block}, "
        "ended with {verdict}: {reason}",
        RefusalKind.NO_SAMPLES: "there is no number of both sides",
        RefusalKind.NOT_A_NUMBER: "a sample is not a finite number",
        RefusalKind.NO_RATIO: "a sample is zero or negative, so that no ratio can be formed",
        RefusalKind.TOO_FEW_PAIRS: "only {pairs} pairs; a verdict needs at least {needed}",
    },
    cautions={
        CautionKind.CPU_PRESSURE: "the CPUs were contended: pressure (PSI some) above {limit} in {blocks} of {of} "
        "blocks, at most {most}",
        CautionKind.STEAL: "the hypervisor took CPU time away: steal above {limit} in {blocks} of {of} blocks, "
        "at most {most}",
        CautionKind.AUTOCORRELATED: "{placement} {label}: neighbouring differences resemble each other "
        "(correlation {correlation}), so that the interval is too narrow",
        CautionKind.CUT_SHORT: "the comparison was cut short: {done} of {planned} blocks are whole",
        CautionKind.TOO_FEW_ROUNDS: "with {pairs} pairs and {rows} primary rows no row can be told apart after "
        "Holm's correction; that takes {needed} pairs (--rounds {needed})",
        CautionKind.UNEXPECTED_SIGNATURE: "side {side}, {placement}: the taps saw something else than expected: "
        "{mismatch}",
        CautionKind.UNPAIRED: "the two sides come from different runs and were not interleaved: a difference may be "
        "the machine's and not the datapath's",
        CautionKind.DIFFERENT_ENVIRONMENT: "the two runs were not measured in the same environment; different: {what}",
    },
    check_verdicts={Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.ERROR: "ERROR", Verdict.SKIP: "skip"},
    labels={
        "rtt_min": "round-trip min",
        "rtt_p50": "round-trip p50",
        "rtt_p90": "round-trip p90",
        "rtt_p99": "round-trip p99",
        "rtt_max": "round-trip max",
        "latency_p50": "service time p50",
        "latency_p90": "service time p90",
        "latency_p99": "service time p99",
        "transactions_per_s": "transactions/s",
        "cpu_per_transaction": "CPU/transaction",
        "cpu_per_byte": "own CPU per byte",
    },
    metric="metric",
    change="change",
    interval="interval",
    pairs="n",
    verdict="verdict",
    detectable="detects",
    p_holm="p (Holm)",
    margin="margin",
    mode_in_force="Mode in force",
    asked="asked",
    found="in force",
    proven="proven",
    not_proven="NOT PROVEN",
    evidence="evidence",
    statements="What the figures are about",
    signatures="Which taps saw the request (→) and the reply (←), with their TTL",
    signature_legend="A dot means that nothing was seen. ≠ marks where the two sides differ.",
    silent_taps="nothing was seen on either side at: {taps}",
    differs="≠",
    warnings="Warnings",
    refused_rows="Rows without a verdict",
    environment="Environment",
    results="Results",
    method="How it was measured",
    method_paired="Interleaved blocks in random order (seed {seed}); change = B against A per block, Hodges-Lehmann "
    "with Wilcoxon's exact {level} interval; Holm over {rows} primary rows.",
    method_unpaired="Two stored runs, not interleaved; Hodges-Lehmann shift with the Mann-Whitney {level} interval; "
    "Holm over {rows} primary rows.",
    samples="Samples",
    samples_in_order="Samples of both sides in the order of the blocks",
    differences_in_order="Change per block, with the interval and the margin (shaded)",
    block="block",
    side="side",
    run_order="Order of the runs",
    raw_data="Every sample",
    value="value",
    median="median",
    check="check",
    pair="pair",
    placement="placement",
    seen="what was seen",
    expected="expected",
    as_expected="as expected",
    not_as_expected="NOT as expected",
    command="by hand",
    primary_note="Secondary metrics carry no verdict: they were not declared beforehand as what counts.",
    better_lower="lower is better",
    better_higher="higher is better",
    started_at="started",
    data_note="The whole comparison as JSON, with every sample, is embedded in this file:",
)

CHINESE = Words(
    tag="zh",
    against="{a}（A）对比 {b}（B）",
    headline_difference="{what}：{b} 比 {a} {word} {size}（{level} 区间：{low}–{high}）",
    headline_negligible="{what}：{b} 与 {a} 相差 {change}（{level} 区间：{low} 至 {high}），小于容许差 {margin}",
    headline_same="{what}：{b} 与 {a} 在 {margin} 以内相同（{level} 区间：{low} 至 {high}）",
    headline_undetected="{what}：{a} 与 {b} 之间未检出差异；本次测量能检出 {detectable} 及以上的差异",
    headline_undetected_unknown="{what}：{a} 与 {b} 之间未检出差异（{level} 区间：{low} 至 {high}）",
    headline_refused="{what}：不作判定，{reason}",
    headline_nothing="没有测得任何数据",
    joiner="",
    to="{low} 至 {high}",
    placements={"same-node": "同节点", "cross-node": "跨节点"},
    verdicts={
        ChangeVerdict.FASTER: "更快",
        ChangeVerdict.SLOWER: "更慢",
        ChangeVerdict.CHEAPER: "更省",
        ChangeVerdict.DEARER: "更费",
        ChangeVerdict.NEGLIGIBLE: "可忽略",
        ChangeVerdict.SAME: "相同",
        ChangeVerdict.UNDETECTED: "未检出",
        ChangeVerdict.REFUSED: "不判定",
    },
    undetected_short="未检出（≥ {detectable}）",
    undetected_long="未检出差异：本次测量能检出 ≥ {detectable}",
    undetected_note="~ 未检出差异；≥ X % 是本次测量十次中有八次能检出的变化。",
    secondary="次要",
    refusals={
        RefusalKind.NOT_PROVEN: "{side} 的生效模式未得到证明：{reason}",
        RefusalKind.RUN_FAILED: "{runs} 次运行中有 {count} 次未通过；第一次在 {side} 侧第 {block} 轮，"
        "结果为 {verdict}：{reason}",
        RefusalKind.NO_SAMPLES: "没有两侧都有的数据",
        RefusalKind.NOT_A_NUMBER: "有样本不是有限数",
        RefusalKind.NO_RATIO: "有样本为零或负数，无法求比值",
        RefusalKind.TOO_FEW_PAIRS: "只有 {pairs} 对样本；判定至少需要 {needed} 对",
    },
    cautions={
        CautionKind.CPU_PRESSURE: "CPU 有争用：{of} 轮中有 {blocks} 轮的压力（PSI some）高于 {limit}，最高 {most}",
        CautionKind.STEAL: "虚拟机管理程序占用了 CPU 时间：{of} 轮中有 {blocks} 轮的 steal 高于 {limit}，最高 {most}",
        CautionKind.AUTOCORRELATED: "{placement}{label}：相邻轮次的差值相关（系数 {correlation}），区间因此偏窄",
        CautionKind.CUT_SHORT: "比较提前中止：{planned} 轮中完成了 {done} 轮",
        CautionKind.TOO_FEW_ROUNDS: "只有 {pairs} 对样本、{rows} 个主要指标，经 Holm 校正后不可能判出差异；"
        "需要 {needed} 对（--rounds {needed}）",
        CautionKind.UNEXPECTED_SIGNATURE: "{side} 侧，{placement}：各抓包点看到的与预期不符：{mismatch}",
        CautionKind.UNPAIRED: "两侧来自不同的运行，没有交错测量：差异可能来自机器而不是数据路径",
        CautionKind.DIFFERENT_ENVIRONMENT: "两次运行的环境不同，不同之处：{what}",
    },
    check_verdicts={Verdict.PASS: "通过", Verdict.FAIL: "失败", Verdict.ERROR: "出错", Verdict.SKIP: "跳过"},
    labels={
        "rtt_min": "往返时延最小值",
        "rtt_p50": "往返时延 p50",
        "rtt_p90": "往返时延 p90",
        "rtt_p99": "往返时延 p99",
        "rtt_max": "往返时延最大值",
        "latency_p50": "服务时间 p50",
        "latency_p90": "服务时间 p90",
        "latency_p99": "服务时间 p99",
        "transactions_per_s": "每秒事务数",
        "cpu_per_transaction": "每事务自身 CPU",
        "cpu_per_byte": "每 GB 自身 CPU",
        "throughput": "吞吐量",
        "retransmits": "重传次数",
    },
    metric="指标",
    change="变化",
    interval="区间",
    pairs="n",
    verdict="判定",
    detectable="可检出",
    p_holm="p（Holm）",
    margin="容许差",
    mode_in_force="生效模式",
    asked="要求",
    found="生效",
    proven="已证明",
    not_proven="未证明",
    evidence="证据",
    statements="这些数字说的是什么",
    signatures="各抓包点看到的请求（→）与应答（←）及其 TTL",
    signature_legend="点表示什么也没看到。≠ 标出两侧不同之处。",
    silent_taps="两侧都没有看到报文：{taps}",
    differs="≠",
    warnings="警告",
    refused_rows="不作判定的行",
    environment="环境",
    results="结果",
    method="测量方法",
    method_paired="按随机顺序交错分轮测量（种子 {seed}）；变化为每轮 B 相对 A，取 Hodges-Lehmann 估计与 Wilcoxon 精确 "
    "{level} 区间；对 {rows} 个主要指标作 Holm 校正。",
    method_unpaired="两次已保存的运行，未交错；取 Hodges-Lehmann 位移与 Mann-Whitney {level} 区间；"
    "对 {rows} 个主要指标作 Holm 校正。",
    samples="样本",
    samples_in_order="两侧样本，按轮次顺序",
    differences_in_order="每轮的变化，附区间与容许差（阴影）",
    block="轮",
    side="侧",
    run_order="运行顺序",
    raw_data="全部样本",
    value="数值",
    median="中位数",
    check="检查",
    pair="配对",
    placement="位置",
    seen="观察结果",
    expected="预期",
    as_expected="与预期一致",
    not_as_expected="与预期不符",
    command="手工命令",
    primary_note="次要指标不作判定：它们没有事先声明为评判依据。",
    better_lower="越低越好",
    better_higher="越高越好",
    started_at="开始于",
    data_note="整个比较（含每个样本）以 JSON 形式嵌在本文件中：",
)


def words_for(language: Language) -> Words:
    return CHINESE if language is Language.CHINESE else ENGLISH
