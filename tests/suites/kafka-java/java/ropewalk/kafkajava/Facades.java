package ropewalk.kafkajava;

import kafka.cluster.Partition;
import kafka.log.LogManager;
import kafka.network.SocketServer;
import kafka.server.ControllerServer;
import kafka.server.KafkaApis;
import kafka.server.KafkaBroker;
import kafka.server.KafkaConfig;
import kafka.server.ReplicaManager;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.controller.Controller;
import org.apache.kafka.coordinator.group.GroupCoordinator;
import org.apache.kafka.metadata.BrokerState;
import org.apache.kafka.metadata.MetadataCache;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.UnifiedLog;

import org.mockito.Mockito;

import scala.Option;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;

/**
 * Replace the broker objects that tests ask for ports, ids, their own configuration, or metadata that a client can
 * see too. A test that asks them for anything else ends as not applicable.
 */
final class Facades {
    private interface Answers {
        /** The answer, or NONE. */
        Object to(String method, Object[] args) throws Throwable;
    }

    private static final Object NONE = new Object();

    private Facades() { }

    private static <T> T proxy(Class<T> type, ExternalCluster cluster, Answers answers) {
        InvocationHandler handler = (self, method, args) -> {
            switch (method.getName()) {
                case "equals": if (args.length == 1) return self == args[0]; break;
                case "hashCode": return System.identityHashCode(self);
                case "toString": return type.getSimpleName() + " facade";
                default:
            }
            Object found = answers.to(method.getName(), args == null ? new Object[0] : args);
            if (found == NONE) throw cluster.internal(name(type, method));
            return found;
        };
        return type.cast(Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, handler));
    }

    private static <T> T mock(Class<T> type, ExternalCluster cluster, Answers answers) {
        return Mockito.mock(type, Mockito.withSettings().stubOnly().defaultAnswer(call -> {
            Object found = answers.to(call.getMethod().getName(), call.getArguments());
            if (found == NONE) throw cluster.internal(name(type, call.getMethod()));
            return found;
        }));
    }

    private static String name(Class<?> type, Method method) {
        return type.getSimpleName() + "." + method.getName();
    }

    static KafkaBroker broker(ExternalCluster cluster, int id) {
        return proxy(KafkaBroker.class, cluster, (method, args) -> {
            switch (method) {
                case "config": return config(cluster, id);
                case "boundPort": return cluster.processes().port(id);
                case "clusterId": return cluster.clusterId();
                case "isShutdown": return cluster.processes().isDown(id);
                case "brokerState": return cluster.processes().isDown(id) ? BrokerState.SHUTTING_DOWN : BrokerState.RUNNING;
                case "shutdown": cluster.shutdownBroker(id); return null;
                case "startup": cluster.startBroker(id); return null;
                case "awaitShutdown": return null;
                case "socketServer": return socketServer(cluster, id);
                case "metadataCache": return metadataCache(cluster, id);
                case "dataPlaneRequestProcessor": return requestProcessor(cluster, id);
                case "logManager": return logManager(cluster, id);
                case "replicaManager": return replicaManager(cluster, id);
                case "groupCoordinator": return groupCoordinator(cluster, id);
                default: return NONE;
            }
        });
    }

    /** What the test itself asked for, parsed as a broker would; nothing of the real broker is in it. */
    private static KafkaConfig config(ExternalCluster cluster, int id) {
        Properties p = new Properties();
        p.put("process.roles", "broker");
        p.put("node.id", Integer.toString(id));
        p.put("controller.quorum.voters", "3000@localhost:1");
        p.put("controller.listener.names", "CONTROLLER");
        p.put("listeners", cluster.clientListener().value() + "://localhost:" + cluster.processes().port(id));
        p.put("listener.security.protocol.map", cluster.clientListener().value() + ":"
            + cluster.config().brokerSecurityProtocol().name + ",CONTROLLER:PLAINTEXT");
        p.put("inter.broker.listener.name", cluster.clientListener().value());
        p.put("log.dirs", BrokerProcesses.emptyDirectory());
        p.put("unstable.api.versions.enable", "true");
        p.put("unstable.feature.versions.enable", "true");
        Map<String, String> own = new HashMap<>(cluster.config().serverProperties());
        own.putAll(cluster.config().perServerOverrideProperties().getOrDefault(id, Map.of()));
        p.putAll(own);
        return KafkaConfig.fromProps(p, false);
    }

    private static SocketServer socketServer(ExternalCluster cluster, int id) {
        return mock(SocketServer.class, cluster, (method, args) ->
            method.equals("boundPort") ? (Object) cluster.processes().port(id) : NONE);
    }

    private static KafkaApis requestProcessor(ExternalCluster cluster, int id) {
        return mock(KafkaApis.class, cluster, (method, args) -> {
            switch (method) {
                case "metadataCache": return metadataCache(cluster, id);
                case "brokerId": return id;
                case "isConsumerGroupProtocolEnabled": return consumerProtocol(cluster);
                default: return NONE;
            }
        });
    }

    /** On, unless the test turns KIP-848 off. */
    private static boolean consumerProtocol(ExternalCluster cluster) {
        return cluster.config().serverProperties().getOrDefault("group.coordinator.rebalance.protocols", "consumer").contains("consumer")
            && cluster.config().features().entrySet().stream()
                .noneMatch(f -> f.getKey().featureName().equals("group.version") && f.getValue() == 0);
    }

    /** A log is there when the node shows the partition with itself among the replicas. */
    private static LogManager logManager(ExternalCluster cluster, int id) {
        return mock(LogManager.class, cluster, (method, args) -> {
            switch (method) {
                case "getLog": return Option.apply(hosted(cluster, id, (TopicPartition) args[0]) ? log(cluster, (TopicPartition) args[0]) : null);
                case "getLog$default$2": return false;
                case "producerStateManagerConfig":
                    return new ProducerStateManagerConfig(Integer.parseInt(setting(cluster, id, "producer.id.expiration.ms")), true);
                case "liveLogDirs": return scala.collection.immutable.Nil$.MODULE$; // none of them can be read from here
                default: return NONE;
            }
        });
    }

    /** The value that the broker applies, as it shows it to clients. */
    private static String setting(ExternalCluster cluster, int id, String name) throws Exception {
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, Integer.toString(id));
        try (Admin admin = cluster.liveAdmin()) {
            return admin.describeConfigs(List.of(broker)).values().get(broker).get().get(name).value();
        }
    }

    private static ReplicaManager replicaManager(ExternalCluster cluster, int id) {
        return mock(ReplicaManager.class, cluster, (method, args) -> {
            switch (method) {
                case "onlinePartition": {
                    TopicPartition tp = (TopicPartition) args[0];
                    if (!hosted(cluster, id, tp)) return Option.empty();
                    int leader = Topics.on(cluster, id).leader(tp.topic(), tp.partition()).orElse(-1);
                    return Option.apply(mock(Partition.class, cluster, (m, a) -> {
                        switch (m) {
                            case "leaderIdIfLocal": return leader == id ? Option.apply((Object) id) : Option.empty();
                            case "isLeader": return leader == id;
                            default: return NONE;
                        }
                    }));
                }
                case "localLog":
                    return Option.apply(hosted(cluster, id, (TopicPartition) args[0]) ? log(cluster, (TopicPartition) args[0]) : null);
                default:
                    return NONE;
            }
        });
    }

    private static boolean hosted(ExternalCluster cluster, int id, TopicPartition tp) throws Exception {
        return !cluster.processes().isDown(id) && Topics.on(cluster, id).hosts(id, tp);
    }

    /** The high watermark is what ListOffsets calls the latest offset. */
    private static UnifiedLog log(ExternalCluster cluster, TopicPartition tp) {
        return mock(UnifiedLog.class, cluster, (method, args) -> {
            if (!method.equals("highWatermark")) return NONE;
            try (Admin admin = cluster.liveAdmin()) {
                return admin.listOffsets(Map.of(tp, OffsetSpec.latest())).partitionResult(tp).get().offset();
            }
        });
    }

    private static GroupCoordinator groupCoordinator(ExternalCluster cluster, int id) {
        return proxy(GroupCoordinator.class, cluster, (method, args) -> {
            if (!method.equals("groupMetadataTopicConfigs")) return NONE;
            Properties p = new Properties();
            p.put("cleanup.policy", "compact");
            p.put("compression.type", "producer");
            p.put("segment.bytes", config(cluster, id).getInt("offsets.topic.segment.bytes").toString());
            return p;
        });
    }

    private static MetadataCache metadataCache(ExternalCluster cluster, int id) {
        return proxy(MetadataCache.class, cluster, (method, args) -> {
            switch (method) {
                case "getAliveBrokerNodes":
                    return Topics.on(cluster, id).nodes();
                case "hasAliveBroker":
                    return Topics.on(cluster, id).nodes().stream().map(Node::id).anyMatch(args[0]::equals);
                case "getLeaderAndIsr":
                    return Topics.on(cluster, id).leaderAndIsr((String) args[0], (Integer) args[1]);
                case "numPartitions": {
                    int n = Topics.on(cluster, id).partitions((String) args[0]);
                    return n == 0 ? Optional.empty() : Optional.of(n);
                }
                case "contains":
                    if (args[0] instanceof TopicPartition tp) return tp.partition() < Topics.on(cluster, id).partitions(tp.topic());
                    return Topics.on(cluster, id).exists((String) args[0]);
                case "getAllTopics":
                    return Topics.on(cluster, id).ids().keySet();
                case "topicNamesToIds":
                    return Topics.on(cluster, id).ids();
                case "getTopicId":
                    return Topics.on(cluster, id).ids().getOrDefault((String) args[0], org.apache.kafka.common.Uuid.ZERO_UUID);
                default:
                    return NONE;
            }
        });
    }

    static ControllerServer controller(ExternalCluster cluster) {
        Controller controller = proxy(Controller.class, cluster, (method, args) ->
            method.equals("findAllTopicIds")
                ? CompletableFuture.completedFuture(Topics.on(cluster, cluster.up().get(0)).ids()) : NONE);
        return mock(ControllerServer.class, cluster, (method, args) -> method.equals("controller") ? controller : NONE);
    }
}
