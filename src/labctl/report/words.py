"""The reports' own words in English and Chinese; no figure and no layout is in here.

Names of scenarios, taps and tools, and what checks and witnesses wrote, stay as they are. Every language has every
word: they are fields, so that the type checker finds a gap. Braces name the facts that a sentence is filled with.
"""

from __future__ import annotations

from collections.abc import Mapping

from labctl.language import Language as Language
from labctl.model.comparison import CautionKind, ChangeVerdict, Correction, RefusalKind
from labctl.model.evidence import Standing
from labctl.model.result import MetricFamily, Verdict, WayPart
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything that a report says in one language.

    `labels` are short names of metrics that fit a table; a metric that is not in there keeps its check's label.
    """

    tag: str
    against: str
    against_first: str
    headline_difference: str
    headline_negligible: str
    headline_same: str
    headline_undetected: str
    headline_undetected_unknown: str
    headline_uncorrected: str
    headline_refused: str
    headline_nothing: str
    headline_unpaired: str
    noise_floor: str
    joiner: str
    to: str
    placements: Mapping[str, str]
    verdicts: Mapping[ChangeVerdict, str]
    undetected_short: str
    undetected_long: str
    undetected_note: str
    left_out: str
    corrected_note: str
    corrections: Mapping[Correction, str]
    secondary: str
    refusals: Mapping[RefusalKind, str]
    cautions: Mapping[CautionKind, str]
    retried: str
    check_verdicts: Mapping[Verdict, str]
    labels: Mapping[str, str]
    metric: str
    change: str
    interval: str
    pairs: str
    verdict: str
    detectable: str
    p_corrected: str
    margin: str
    mode_in_force: str
    asked: str
    found: str
    standings: Mapping[Standing, str]
    fell_back: str
    logged: str
    unlogged: str
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
    interval_paired: str
    interval_unpaired: str
    interval_short: str
    interval_none: str
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
    stopped_narrow: str
    stopped_limit: str
    limit: str
    limit_note: str
    crossed: str
    held: str
    unknown: str
    thresholds: str
    better_lower: str
    better_higher: str
    started_at: str
    data_note: str
    margins: str
    families: Mapping[MetricFamily, str]
    explanation: str
    parts: Mapping[WayPart, str]
    part_with_netfilter: str
    part: str
    difference: str
    not_explained: str
    unexplained: str
    explanation_note: str
    failed_runs: str
    failed_run: str
    matrix_note: str
    curves: str
    curves_note: str
    what_counts: str
    secondary_title: str
    is_lower: str
    is_higher: str
    samples_note: str
    always: str
    by_block: str
    raw_files: str
    raw_note: str


ENGLISH = Words(
    tag="en",
    against="{a} (A) against {b} (B)",
    against_first="Compared with {a}",
    headline_difference="{what}: {b} is {size} {word} ({level}: {low}–{high}) than {a}",
    headline_negligible="{what}: {b} and {a} differ by {change} ({level}: {low} to {high}), "
    "less than the margin of {margin}",
    headline_same="{what}: {b} and {a} are the same within {margin} ({level}: {low} to {high})",
    headline_undetected="{what}: no difference detectable between {a} and {b}; this run could have seen {detectable} "
    "or more",
    headline_undetected_unknown="{what}: no difference detectable between {a} and {b} ({level}: {low} to {high})",
    headline_uncorrected="{what}: {b} was {change} against {a} ({level}: {low} to {high}), which among so many rows "
    "may be chance (corrected p is {p})",
    headline_refused="{what}: no verdict, {reason}",
    headline_nothing="Nothing was measured",
    noise_floor="Both sides are built alike, so this is the noise floor of this machine: primary rows differ by up to "
    "{largest}, and the least that every one of them could have seen is {detectable}.",
    headline_unpaired="{headline} (two runs, not interleaved: the machine may be the cause)",
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
    left_out="For a terminal of {width} columns, and in --json: {columns}.",
    corrected_note="A row whose interval excludes 0 and that is still undetected did not pass the correction (p is "
    "the corrected one): among so many rows such an interval comes by chance too often.",
    corrections={
        Correction.HOLM: "Holm",
        Correction.EXCHANGE: "all exchanges of the sides in blocks, step-down max-T (few blocks),",
    },
    secondary="secondary",
    refusals={
        RefusalKind.NOT_PROVEN: "the mode in force of {side} is not proven: {reason}",
        RefusalKind.RUN_FAILED: "{count} of {runs} runs did not pass; the first, side {side} in block {block}, "
        "ended with {verdict}: {reason}",
        RefusalKind.NO_SAMPLES: "there are no samples from both sides",
        RefusalKind.NOT_A_NUMBER: "a sample is not a finite number",
        RefusalKind.NO_RATIO: "a sample is zero or negative, so that no ratio can be formed",
        RefusalKind.TOO_FEW_PAIRS: "only {pairs} pairs; a verdict needs at least {needed}",
    },
    cautions={
        CautionKind.NEIGHBOURS: "the CPUs were shared: other processes of this machine used more than {limit} of the "
        "CPU time in {blocks} of {of} blocks, at most {most}",
        CautionKind.CPU_PRESSURE: "the CPUs were contended: pressure (PSI some) above {limit} in {blocks} of {of} "
        "blocks, at most {most}; how much of it is our own load is not known",
        CautionKind.FREQUENCY: "the CPUs' frequency moved from block to block, between {lowest_hz} and {highest_hz}",
        CautionKind.STEAL: "the hypervisor took CPU time away: steal above {limit} in {blocks} of {of} blocks, "
        "at most {most}",
        CautionKind.AUTOCORRELATED: "{placement} {label}: successive differences are correlated "
        "(coefficient {correlation}), so that the interval is too narrow",
        CautionKind.DIFFERENT_LAB: "the two labs were not made alike; different: {what}",
        CautionKind.CUT_SHORT: "the comparison was cut short: {done} of {planned} blocks are whole",
        CautionKind.TOO_FEW_ROUNDS: "with {pairs} pairs no row can reach significance, whatever is measured; "
        "that takes {needed} pairs (--rounds {needed})",
        CautionKind.UNEXPECTED_SIGNATURE: "side {side}, {placement}: the taps did not see what was expected: "
        "{mismatch}",
        CautionKind.RETRIED: "{count} of {of} runs ({checks}) measured nothing at first, usually for lack of CPU, "
        "and were run again: {a} of side A, {b} of side B; the first such attempt: {reason}. Its raw files are kept",
        CautionKind.FELL_BACK: "side {side} asked for {asked} and runs {found}: {reason}",
        CautionKind.UNPAIRED: "the two sides come from different runs and were not interleaved: a difference may come "
        "from the machine and not from the datapath",
        CautionKind.TOOL_DISAGREES: "{placement} {label}: the checks {check} and {other} disagree: {low} to {high} and "
        "{other_low} to {other_high} have nothing in common; they measure different things (CPUs, sizes, streams), or "
        "one is wrong",
        CautionKind.STOOD_IN: "{check}: sockperf and iperf3 stood in for labctl's load program in {count} of {of} "
        "runs, and are as noisy as the machine: {reason}",
        CautionKind.DIFFERENT_ENVIRONMENT: "the two runs were not measured in the same environment; different: {what}",
    },
    retried="the second attempt; the first measured nothing: {reason}",
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
        "cycles_per_transaction": "cycles/transaction",
        "instructions_per_transaction": "instructions/tr.",
        "cpu_per_byte": "own CPU per byte",
        "many_cpu_per_byte": "CPU/byte, many",
        "throughput": "throughput",
        "udp_p50": "UDP service p50",
        "udp_cpu_per_transaction": "CPU/UDP request",
        "paced_p50": "paced p50",
        "paced_p99": "paced p99",
        "response_p50": "response p50",
        "response_p90": "response p90",
        "response_p99": "response p99",
        "connections_per_s": "connections/s",
        "cpu_per_connection": "CPU/connection",
    },
    metric="metric",
    change="change",
    interval="interval",
    pairs="n",
    verdict="verdict",
    detectable="detects",
    p_corrected="p (corrected)",
    margin="margin",
    mode_in_force="Mode in force",
    asked="asked",
    found="in force",
    standings={
        Standing.IN_FORCE: "proven",
        Standing.NOT_IN_FORCE: "NOT IN FORCE",
        Standing.NOT_SHOWN: "NOT SHOWN",
    },
    fell_back="proven: asked {asked}, in force {found} ({reason}; {log})",
    logged="Cilium {version} logs: {line}",
    unlogged="Cilium {version} logs nothing about it",
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
    method_paired="Interleaved blocks in random order (seed {seed}); change = B against A per block, Hodges-Lehmann"
    "{interval}; {correction} over {rows} primary rows.",
    method_unpaired="Two stored runs, not interleaved; Hodges-Lehmann shift{interval}; {correction} over {rows} "
    "primary rows.",
    interval_paired=" with Wilcoxon's exact {level} interval",
    interval_unpaired=" with the Mann-Whitney {level} interval",
    interval_short=" (so few samples give no interval of 95 %)",
    interval_none=", without an interval, which a single sample does not have",
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
    stopped_narrow="Measured until the intervals were narrow: ± {reached} after {after} blocks (asked: ± {until}); "
    "looks after {looks} blocks share the 5 %.",
    stopped_limit="The intervals did not become as narrow as asked (± {until}) in {after} blocks: ± {reached}; "
    "looks after {looks} blocks share the 5 %.",
    limit="Against the physical limit ({client}→{server}, in the same blocks)",
    limit_note="how far each side is from what the wire between the two nodes gives, with the node's own stack",
    crossed="CROSSED",
    held="held",
    unknown="cannot be known",
    thresholds="Thresholds",
    better_lower="lower is better",
    better_higher="higher is better",
    started_at="started",
    data_note="The whole comparison with every sample, as files:",
    margins="Equivalence margins: {margins}.",
    families={
        MetricFamily.LATENCY: "latency",
        MetricFamily.THROUGHPUT: "throughput",
        MetricFamily.CPU: "CPU",
        MetricFamily.QUALITY: "quality",
    },
    explanation="Where the difference comes from",
    parts={
        WayPart.NETFILTER: "netfilter on the nodes",
        WayPart.STACK: "programs and IP stack of the nodes",
        WayPart.DEVICES: "between pod and node (devices)",
        WayPart.TUNNEL: "tunnel",
        WayPart.WIRE: "between the nodes",
        WayPart.ENDS: "TCP and program in both pods",
    },
    part_with_netfilter="programs, IP stack and netfilter of the nodes",
    part="part of the way",
    difference="B − A",
    not_explained="not explained",
    unexplained="not known: {reason}",
    explanation_note="A request's way there and back, seen by taps in the kernel on round trips beside those of the "
    "rows (what a tap costs is taken off). The rest is what the row differs by less all parts, block by block.",
    failed_runs="Runs that did not pass",
    failed_run="{side}, {placement} {check} {client}→{server}: {count} of {of} runs; the first, in block {block}, "
    "ended with {verdict}: {reason}",
    matrix_note="Each column is a comparison of its own: p-values are corrected over the primary rows of a column, "
    "not over the whole matrix.",
    curves="Curves",
    curves_note="The change of each judged metric from column to column, with its interval. Shaded: the margin; "
    "smaller differences are negligible.",
    what_counts="What counts",
    secondary_title="Secondary metrics, without a verdict",
    is_lower="← {b} lower",
    is_higher="{b} higher →",
    samples_note="Above: the samples of both sides in the order in which they were measured, with their medians. "
    "Below: the change in each block (B against A), the estimate with its interval (blue), zero, and the margin "
    "(grey, dotted).",
    always="{value} on both sides, in every block",
    by_block="the figures of each block",
    raw_files="raw files",
    raw_note="Every figure comes from files of a run on disk, stored before they were read ({runs}). To verify: "
    "sha256sum -c SHA256SUMS. Compute the whole report again: labctl report RUN.",
)
