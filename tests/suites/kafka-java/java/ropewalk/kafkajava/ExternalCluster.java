package ropewalk.kafkajava;

import kafka.server.ControllerServer;
import kafka.server.KafkaBroker;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.network.ListenerName;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.common.test.ClusterInstance;
import org.apache.kafka.common.test.api.ClusterConfig;
import org.apache.kafka.common.test.api.Type;
import org.apache.kafka.server.authorizer.Authorizer;
import org.apache.kafka.server.common.MetadataVersion;
import org.apache.kafka.server.fault.FaultHandlerException;

import java.util.AbstractMap;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** What Kafka's tests ask of a cluster, answered by broker processes outside of this JVM. */
public final class ExternalCluster implements ClusterInstance {
    public static final String DUPLICATE = NotApplicable.DUPLICATE;

    private final ClusterConfig config;
    private final boolean combined;
    private final Map<Integer, KafkaBroker> facades = new LinkedHashMap<>();
    private BrokerProcesses processes;
    private boolean started;
    private boolean stopped;
    private String clusterId;
    private volatile String touched;

    public ExternalCluster(ClusterConfig config, boolean combined) {
        this.config = config;
        this.combined = combined;
        for (int i = 0; i < config.numBrokers(); i++) facades.put(i, Facades.broker(this, i));
    }

    /** Ends a test that needs an object inside the broker as not applicable. */
    RuntimeException internal(String what) {
        if (touched == null) touched = "uses " + what + " inside the broker JVM";
        return NotApplicable.abort(touched);
    }

    /** Makes a test that needed an object inside the broker not applicable, whatever it made of that. */
    public void rethrow(Throwable thrown) throws Throwable {
        if (touched != null) throw NotApplicable.abort(touched);
        // A facade cast to the class that it replaces.
        if (thrown instanceof ClassCastException && String.valueOf(thrown.getMessage()).contains("$Proxy"))
            throw NotApplicable.abort(thrown.getMessage().replaceFirst(".* cannot be cast to class (\\S+).*", "uses $1 inside the broker JVM"));
        throw thrown;
    }

    /** At the end of the test: stops the processes, or keeps them for the next test. */
    public synchronized void finish(boolean passed) {
        if (processes == null || stopped) return;
        stopped = true;
        processes.release(passed);
    }

    private boolean reusable() {
        return config.brokerSecurityProtocol() == SecurityProtocol.PLAINTEXT && config.features().isEmpty()
            && config.metadataVersion() == MetadataVersion.latestTesting()
            && config.perServerOverrideProperties().isEmpty()
            && config.serverProperties().keySet().stream().noneMatch(k -> k.contains("class") || k.contains("authorizer"));
    }

    BrokerProcesses processes() {
        if (processes == null) throw new IllegalStateException("cluster not started");
        return processes;
    }

    Map<String, String> launcherProperties() {
        Map<String, String> all = new HashMap<>(config.serverProperties());
        config.perServerOverrideProperties().forEach((node, more) ->
            more.forEach((k, v) -> all.put("test.node." + node + "." + k, v)));
        all.put("test.security.protocol", config.brokerSecurityProtocol().name);
        return all;
    }

    /** A setting whose value is a class of Kafka's test jars, which only a broker in Java can load. */
    private static Optional<String> javaPlugin(Map<String, String> properties) {
        for (Map.Entry<String, String> e : properties.entrySet()) {
            for (String name : e.getValue().split(",")) {
                name = name.strip();
                if (!name.matches("[a-zA-Z_]\\w*(\\.[a-zA-Z_][\\w$]*)+")) continue;
                try {
                    Class<?> c = Class.forName(name, false, ExternalCluster.class.getClassLoader());
                    String from = c.getProtectionDomain().getCodeSource().getLocation().getPath();
                    if (from.endsWith("-test.jar")) return Optional.of(e.getKey() + "=" + name);
                } catch (ClassNotFoundException | LinkageError | NullPointerException ignored) {
                    // Not a class of the tests.
                }
            }
        }
        return Optional.empty();
    }

    private static void waitUntil(Callable<Boolean> done, long millis, String what) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
        Exception last = null;
        do {
            try {
                if (done.call()) return;
                last = null;
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                last = e;
            }
            Thread.sleep(50);
        } while (System.nanoTime() < end);
        throw new AssertionError(what + " within " + millis + " ms", last);
    }

    Admin liveAdmin() {
        return admin(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, processes().liveBootstrapServers()));
    }

    List<Integer> up() {
        return IntStream.range(0, config.numBrokers()).filter(i -> !processes().isDown(i)).boxed().toList();
    }

    @Override
    public Type type() {
        return combined ? Type.CO_KRAFT : Type.KRAFT;
    }

    @Override
    public ClusterConfig config() {
        return config;
    }

    @Override
    public synchronized void start() {
        if (started) return;
        started = true;
        Map<String, String> all = new HashMap<>(config.serverProperties());
        config.perServerOverrideProperties().values().forEach(all::putAll);
        javaPlugin(all).ifPresent(found -> {
            throw NotApplicable.abort("needs a broker that loads Java classes: " + found);
        });
        try {
            processes = BrokerProcesses.acquire(config.numBrokers(), launcherProperties(), reusable());
        } catch (BrokerProcesses.OutOfScope e) {
            throw NotApplicable.abort(e.getMessage());
        }
    }

    @Override
    public boolean started() {
        return started;
    }

    @Override
    public synchronized void stop() {
        if (stopped) return;
        stopped = true;
        if (processes != null) processes.stop();
    }

    @Override
    public boolean stopped() {
        return stopped;
    }

    @Override
    public void shutdownBroker(int node) {
        if (node < 0 || node >= config.numBrokers()) throw new IllegalArgumentException("no broker " + node);
        if (!processes().isDown(node)) processes().stopNode(node);
    }

    @Override
    public void startBroker(int node) {
        if (node < 0 || node >= config.numBrokers()) throw new IllegalArgumentException("no broker " + node);
        if (processes().isDown(node)) processes().startNode(node);
    }

    @Override
    public Map<Integer, KafkaBroker> brokers() {
        return facades;
    }

    @Override
    public Set<Integer> brokerIds() {
        return facades.keySet();
    }

    /** Iteration finds no controller, because tests wait for the metadata of each; a facade answers for any id. */
    @Override
    public Map<Integer, ControllerServer> controllers() {
        return new AbstractMap<>() {
            @Override
            public Set<Entry<Integer, ControllerServer>> entrySet() {
                return Set.of();
            }

            @Override
            public ControllerServer get(Object id) {
                return Facades.controller(ExternalCluster.this);
            }
        };
    }

    @Override
    public Set<Integer> controllerIds() {
        return Set.of(3000);
    }

    @Override
    public ListenerName clientListener() {
        return config.brokerListenerName();
    }

    @Override
    public ListenerName controllerListenerName() {
        return config.controllerListenerName();
    }

    @Override
    public String bootstrapServers() {
        return processes().bootstrapServers();
    }

    @Override
    public String bootstrapControllers() {
        throw internal("a controller listener");
    }

    @Override
    public List<Integer> controllerBoundPorts() {
        throw internal("a controller listener");
    }

    @Override
    public List<Integer> brokerBoundPorts() {
        return IntStream.range(0, config.numBrokers()).mapToObj(i -> processes().port(i)).toList();
    }

    @Override
    public synchronized String clusterId() {
        if (clusterId == null) {
            try (Admin admin = liveAdmin()) {
                clusterId = admin.describeCluster().clusterId().get(30, TimeUnit.SECONDS);
            } catch (Exception e) {
                throw new IllegalStateException("describeCluster", e);
            }
        }
        return clusterId;
    }

    @Override
    public Optional<FaultHandlerException> firstFatalException() {
        return Optional.empty();
    }

    @Override
    public Optional<FaultHandlerException> firstNonFatalException() {
        return Optional.empty();
    }

    @Override
    public void waitForReadyBrokers() throws InterruptedException {
        int expected = up().size();
        try (Admin admin = liveAdmin()) {
            waitUntil(() -> admin.describeCluster().nodes().get(10, TimeUnit.SECONDS).size() == expected, 30000,
                "cluster did not show " + expected + " brokers");
        }
    }

    @Override
    public void waitTopicCreation(String topic, int partitions) throws InterruptedException {
        if (partitions <= 0) throw new IllegalArgumentException("partition count must be > 0, but was " + partitions);
        waitUntil(() -> {
            for (int node : up()) if (Topics.on(this, node).partitionsWithLeader(topic) != partitions) return false;
            return true;
        }, 60000, topic + " did not get " + partitions + " partitions");
    }

    @Override
    public void waitTopicDeletion(String topic) throws InterruptedException {
        waitUntil(() -> {
            for (int node : up()) if (Topics.on(this, node).exists(topic)) return false;
            return true;
        }, 60000, topic + " was not deleted");
        Thread.sleep(200);
    }

    /** What a broker knows of the metadata log cannot be seen from outside: a pause, and then all answer. */
    @Override
    public void ensureConsistentMetadata() throws InterruptedException {
        Thread.sleep(300);
        waitUntil(() -> {
            for (int node : up()) Topics.on(this, node);
            return true;
        }, 30000, "brokers did not answer");
    }

    @Override
    public void ensureConsistentMetadata(Collection<KafkaBroker> brokers, Collection<ControllerServer> controllers) throws InterruptedException {
        ensureConsistentMetadata();
    }

    @Override
    public List<Authorizer> authorizers() {
        throw internal("authorizers");
    }

    @Override
    public void waitAcls(AclBindingFilter filter, Collection<AccessControlEntry> entries) throws InterruptedException {
        Set<AccessControlEntry> wanted = new HashSet<>(entries);
        try (Admin admin = liveAdmin()) {
            waitUntil(() -> admin.describeAcls(filter).values().get(10, TimeUnit.SECONDS).stream()
                .map(AclBinding::entry).collect(Collectors.toSet()).equals(wanted), 45000, "ACLs did not become " + wanted);
        }
        Thread.sleep(300);
    }
}
