"""The steps of the comparison, in order: each is one call of one of Kafka's command-line tools."""

from dataclasses import dataclass, field

TOOLS = "org.apache.kafka.tools"
TOPICS = f"{TOOLS}.TopicCommand"
OFFSETS = f"{TOOLS}.GetOffsetShell"
CONSUMER_GROUPS = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
CONFIGS = "kafka.admin.ConfigCommand"
PRODUCE = f"{TOOLS}.ConsoleProducer"
CONSUME = f"{TOOLS}.consumer.ConsoleConsumer"


@dataclass
class Step:
    name: str
    tool: str
    arguments: list
    stdin: str = ""
    files: dict = field(default_factory=dict)
    any_order: bool = False
    numbers: bool = False
    after_seconds: float = 0
    seconds_max: int = 60


def step(name, tool, arguments, **options):
    return Step(name, tool, ["--bootstrap-server", "BOOTSTRAP", *arguments.split()], **options)


def topics(name, arguments, **options):
    return step(f"topics {name}", TOPICS, arguments, any_order=True, **options)


def configs(name, arguments, **options):
    return step(f"configs {name}", CONFIGS, arguments, any_order=True, **options)


def groups(name, arguments, **options):
    return step(f"consumer-groups {name}", CONSUMER_GROUPS, arguments, any_order=True, **options)


def offsets(name, arguments, **options):
    return step(f"get-offsets {name}", OFFSETS, arguments, any_order=True, **options)


LINES = "".join(f"key-{i}:value-{i}\n" for i in range(20))
RECORDS_JSON = '{"partitions":[{"topic":"cli-one","partition":0,"offset":5}],"version":1}'
TOO_FAR_JSON = '{"partitions":[{"topic":"cli-one","partition":0,"offset":500}],"version":1}'
ABSENT_JSON = '{"partitions":[{"topic":"absent","partition":0,"offset":5}],"version":1}'
# The tool requests a missing topic again until its timeout.
GIVES_UP_SOON = "default.api.timeout.ms=5000\nrequest.timeout.ms=4000\n"

STEPS = [
    topics("create", "--create --topic cli-one --partitions 1 --config retention.ms=3600000"),
    topics("create with defaults", "--create --topic cli-four"),
    topics("create compacted", "--create --topic cli-compacted --partitions 2 --config cleanup.policy=compact"),
    topics("create one that exists", "--create --topic cli-one"),
    topics("create if not exists", "--create --topic cli-one --if-not-exists"),
    topics("create with a bad name", "--create --topic no/slash"),
    topics("create with a dot and an underscore", "--create --topic cli.dot_and"),
    topics("create with a bad setting", "--create --topic cli-bad --config no.such.key=1"),
    topics("create with a bad value", "--create --topic cli-bad --config retention.ms=soon"),
    topics("create with too many replicas", "--create --topic cli-bad --replication-factor 4"),
    topics("create with no partitions", "--create --topic cli-bad --partitions 0"),
    topics("list", "--list"),
    topics("describe one", "--describe --topic cli-one"),
    topics("describe all", "--describe"),
    topics("describe absent", "--describe --topic absent"),
    topics("describe with overrides", "--describe --topics-with-overrides"),
    topics("describe under-replicated", "--describe --under-replicated-partitions"),
    topics("alter partitions", "--alter --topic cli-four --partitions 6"),
    topics("alter to fewer partitions", "--alter --topic cli-four --partitions 2"),
    topics("alter absent", "--alter --topic absent --partitions 2"),
    topics("describe altered", "--describe --topic cli-four"),
    step("console-producer", PRODUCE, "--topic cli-one --reader-property parse.key=true --reader-property key.separator=:", stdin=LINES),
    step(
        "console-consumer",
        CONSUME,
        "--topic cli-one --from-beginning --max-messages 20 --timeout-ms 20000 --formatter-property print.key=true"
        " --formatter-property print.offset=true --formatter-property print.partition=true"
        " --formatter-property print.timestamp=true --formatter-property print.headers=true",
    ),
    step("console-consumer in a group", CONSUME, "--topic cli-one --from-beginning --max-messages 8 --timeout-ms 20000 --group cli-group"),
    step("console-consumer in another group", CONSUME, "--topic cli-one --from-beginning --max-messages 20 --timeout-ms 20000 --group cli-done"),
    offsets("of all", ""),
    offsets("latest", "--topic cli-one"),
    offsets("earliest", "--topic cli-one --time earliest"),
    offsets("max timestamp", "--topic cli-one --time max-timestamp", numbers=True),
    offsets("by time", "--topic cli-one --time 1000"),
    offsets("by a time to come", "--topic cli-one --time 99999999999999"),
    offsets("of partitions", "--topic-partitions cli-four:0-3,cli-one:0"),
    offsets("of absent", "--topic absent"),
    groups("list", "--list"),
    groups("list with state", "--list --state"),
    groups("list by type", "--list --type classic"),
    groups("describe", "--describe --group cli-group"),
    groups("describe all", "--describe --all-groups"),
    groups("describe members", "--describe --group cli-group --members"),
    groups("describe state", "--describe --group cli-group --state"),
    groups("describe absent", "--describe --group absent"),
    groups("reset to earliest, dry run", "--reset-offsets --group cli-group --topic cli-one --to-earliest --dry-run"),
    groups("reset by shifting", "--reset-offsets --group cli-group --topic cli-one --shift-by -3 --execute"),
    groups("reset to a time", "--reset-offsets --group cli-group --topic cli-one --to-datetime 2020-01-01T00:00:00.000 --execute"),
    groups("reset to latest", "--reset-offsets --group cli-group --all-topics --to-latest --execute"),
    groups("reset absent", "--reset-offsets --group absent --topic cli-one --to-earliest --execute"),
    groups("export", "--reset-offsets --group cli-group --topic cli-one --to-current --dry-run --export"),
    groups("describe after reset", "--describe --group cli-group"),
    groups("delete offsets", "--delete-offsets --group cli-group --topic cli-one"),
    groups("delete", "--delete --group cli-done"),
    groups("delete absent", "--delete --group absent"),
    step("groups list", f"{TOOLS}.GroupsCommand", "--list", any_order=True),
    step("groups list consumer", f"{TOOLS}.GroupsCommand", "--list --consumer", any_order=True),
    step("delete-records", f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file records.json", files={"records.json": RECORDS_JSON}),
    step("delete-records too far", f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file far.json", files={"far.json": TOO_FAR_JSON}),
    step("delete-records absent", f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file absent.json --command-config soon.properties",
         files={"absent.json": ABSENT_JSON, "soon.properties": GIVES_UP_SOON}),
    offsets("after delete-records", "--topic cli-one --time earliest"),
    configs("describe topic", "--describe --entity-type topics --entity-name cli-one"),
    configs("describe topic, all", "--describe --entity-type topics --entity-name cli-one --all"),
    configs("alter topic", "--alter --entity-type topics --entity-name cli-one --add-config max.message.bytes=2000000,cleanup.policy=[compact,delete]"),
    configs("describe altered topic", "--describe --entity-type topics --entity-name cli-one"),
    configs("delete a setting", "--alter --entity-type topics --entity-name cli-one --delete-config max.message.bytes"),
    configs("delete a setting that is not set", "--alter --entity-type topics --entity-name cli-one --delete-config flush.ms"),
    configs("alter with an unknown key", "--alter --entity-type topics --entity-name cli-one --add-config no.such.key=1"),
    configs("alter with a bad value", "--alter --entity-type topics --entity-name cli-one --add-config retention.ms=soon"),
    configs("alter with a bad policy", "--alter --entity-type topics --entity-name cli-one --add-config cleanup.policy=keep"),
    configs("describe absent topic", "--describe --entity-type topics --entity-name absent"),
    configs("describe brokers", "--describe --entity-type brokers --entity-default"),
    configs("describe broker, all", "--describe --entity-type brokers --all"),
    configs("alter broker", "--alter --entity-type brokers --entity-default --add-config log.retention.ms=86400000"),
    configs("describe altered brokers", "--describe --entity-type brokers --entity-default"),
    step("log-dirs", f"{TOOLS}.LogDirsCommand", "--describe --topic-list cli-one,cli-four"),
    step("log-dirs of absent", f"{TOOLS}.LogDirsCommand", "--describe --topic-list absent"),
    step("leader-election", f"{TOOLS}.LeaderElectionCommand", "--election-type preferred --topic cli-one --partition 0"),
    step("reassign-partitions list", f"{TOOLS}.reassign.ReassignPartitionsCommand", "--list"),
    step("metadata-quorum replication", f"{TOOLS}.MetadataQuorumCommand", "describe --replication", numbers=True),
    step(
        "producer-perf",
        f"{TOOLS}.ProducerPerformance",
        "--topic cli-four --num-records 5000 --record-size 100 --throughput -1 --command-property acks=all",
        numbers=True,
    ),
    step("consumer-perf", f"{TOOLS}.ConsumerPerformance", "--topic cli-four --num-records 5000 --timeout 20000", numbers=True),
    topics("delete", "--delete --topic cli-compacted"),
    topics("delete absent", "--delete --topic absent"),
    topics("delete absent if exists", "--delete --topic absent --if-exists"),
    topics("list after delete", "--list", after_seconds=1),
]
