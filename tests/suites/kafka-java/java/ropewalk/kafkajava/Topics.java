package ropewalk.kafkajava;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.requests.MetadataRequest;
import org.apache.kafka.common.requests.MetadataResponse;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.metadata.LeaderAndIsr;
import org.apache.kafka.server.IntegrationTestUtils;

import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/** What one node says about nodes and topics, asked over its client port. */
final class Topics {
    private record Partition(int id, int leader, int epoch, List<Integer> isr, List<Integer> replicas) { }

    private final List<Node> nodes = new ArrayList<>();
    private final Map<String, List<Partition>> topics = new HashMap<>();
    private final Map<String, Uuid> ids = new HashMap<>();

    static Topics on(ExternalCluster cluster, int node) throws Exception {
        Topics t = new Topics();
        if (cluster.config().brokerSecurityProtocol() == SecurityProtocol.PLAINTEXT) t.raw(cluster.processes().port(node));
        else t.throughAdmin(cluster);
        return t;
    }

    static java.util.Set<String> names(int port) throws IOException {
        Topics t = new Topics();
        t.raw(port);
        return t.topics.keySet();
    }

    private void raw(int port) throws IOException {
        MetadataResponse r = IntegrationTestUtils.connectAndReceive(MetadataRequest.Builder.allTopics().build((short) 12), port);
        nodes.addAll(r.brokers());
        for (MetadataResponse.TopicMetadata topic : r.topicMetadata()) {
            if (topic.error() != Errors.NONE && topic.error() != Errors.LEADER_NOT_AVAILABLE) continue;
            List<Partition> found = new ArrayList<>();
            for (MetadataResponse.PartitionMetadata p : topic.partitionMetadata())
                found.add(new Partition(p.partition(), p.leaderId.orElse(-1), p.leaderEpoch.orElse(0), p.inSyncReplicaIds, p.replicaIds));
            topics.put(topic.topic(), found);
            ids.put(topic.topic(), topic.topicId());
        }
    }

    private void throughAdmin(ExternalCluster cluster) throws Exception {
        try (Admin admin = cluster.liveAdmin()) {
            nodes.addAll(admin.describeCluster().nodes().get());
            Map<String, TopicDescription> all = admin.describeTopics(
                admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get()).allTopicNames().get();
            all.forEach((name, d) -> {
                ids.put(name, d.topicId());
                topics.put(name, d.partitions().stream().map(p -> new Partition(p.partition(),
                    p.leader() == null ? -1 : p.leader().id(), 0, p.isr().stream().map(Node::id).toList(), p.replicas().stream().map(Node::id).toList())).toList());
            });
        }
    }

    boolean exists(String topic) {
        return topics.containsKey(topic);
    }

    List<Node> nodes() {
        return nodes;
    }

    Map<String, Uuid> ids() {
        return ids;
    }

    int partitions(String topic) {
        return topics.getOrDefault(topic, List.of()).size();
    }

    boolean hosts(int node, org.apache.kafka.common.TopicPartition tp) {
        return topics.getOrDefault(tp.topic(), List.of()).stream().anyMatch(p -> p.id == tp.partition() && p.replicas.contains(node));
    }

    int partitionsWithLeader(String topic) {
        return (int) topics.getOrDefault(topic, List.of()).stream().filter(p -> p.leader >= 0).count();
    }

    OptionalInt leader(String topic, int partition) {
        return topics.getOrDefault(topic, List.of()).stream().filter(p -> p.id == partition).mapToInt(Partition::leader).findFirst();
    }

    Optional<LeaderAndIsr> leaderAndIsr(String topic, int partition) {
        return topics.getOrDefault(topic, List.of()).stream().filter(p -> p.id == partition).findFirst()
            .map(p -> new LeaderAndIsr(p.leader, p.epoch, p.isr, org.apache.kafka.metadata.LeaderRecoveryState.RECOVERED, 0));
    }
}
