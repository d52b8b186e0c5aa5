package ropewalk.kafkajava;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConfigResourcesOptions;
import org.apache.kafka.common.config.ConfigResource;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;

/** Brings a used cluster back to its first state: no topics, groups, or dynamic configuration. */
final class Scrub {
    private Scrub() { }

    /** False when something is left that only a new cluster does not have. */
    static boolean clean(BrokerProcesses processes) {
        if (!processes.isUntouched()) return no("a node was down");
        Map<String, Object> config = Map.of("bootstrap.servers", processes.bootstrapServers(),
            "default.api.timeout.ms", "10000", "request.timeout.ms", "5000");
        try (Admin admin = Admin.create(config)) {
            if (admin.describeCluster().nodes().get(10, TimeUnit.SECONDS).size() != processes.nodes()) return no("nodes missing");
            var resources = admin.listConfigResources(Set.of(ConfigResource.Type.GROUP, ConfigResource.Type.CLIENT_METRICS),
                new ListConfigResourcesOptions()).all().get(10, TimeUnit.SECONDS);
            if (!resources.isEmpty()) {
                Map<ConfigResource, Collection<AlterConfigOp>> undo = new HashMap<>();
                admin.describeConfigs(resources).all().get(10, TimeUnit.SECONDS).forEach((resource, c) -> undo.put(resource,
                    c.entries().stream().filter(e -> e.source() == ConfigEntry.ConfigSource.DYNAMIC_GROUP_CONFIG
                            || e.source() == ConfigEntry.ConfigSource.DYNAMIC_CLIENT_METRICS_CONFIG)
                        .map(e -> new AlterConfigOp(new ConfigEntry(e.name(), ""), AlterConfigOp.OpType.DELETE)).toList()));
                admin.incrementalAlterConfigs(undo).all().get(10, TimeUnit.SECONDS);
            }
            Set<String> dynamic = dynamic(admin, processes);
            if (!dynamic.equals(processes.dynamicAtStart))
                return no("dynamic broker configuration " + dynamic + ", at start " + processes.dynamicAtStart);
            for (int tries = 0; ; tries++) {
                List<String> groups = admin.listGroups().all().get(10, TimeUnit.SECONDS).stream().map(GroupListing::groupId).toList();
                try {
                    if (!groups.isEmpty()) admin.deleteConsumerGroups(groups).all().get(10, TimeUnit.SECONDS);
                    break;
                } catch (java.util.concurrent.ExecutionException e) {
                    if (tries == 10) return no("groups: " + e.getCause());
                    Thread.sleep(300);
                }
            }
            Set<String> topics = admin.listTopics().names().get(10, TimeUnit.SECONDS);
            if (!topics.isEmpty()) admin.deleteTopics(topics).all().get(10, TimeUnit.SECONDS);
            for (int i = 0; i < processes.nodes(); i++)
                for (int tries = 0; Topics.names(processes.port(i)).stream().anyMatch(topics::contains); tries++) {
                    if (tries == 50) return no("topics stay");
                    Thread.sleep(100);
                }
            return true;
        } catch (Exception e) {
            return no(e.toString());
        }
    }

    private static Set<String> dynamic(Admin admin, BrokerProcesses processes) throws Exception {
        List<ConfigResource> brokers = new ArrayList<>();
        brokers.add(new ConfigResource(ConfigResource.Type.BROKER, ""));
        for (int i = 0; i < processes.nodes(); i++) brokers.add(new ConfigResource(ConfigResource.Type.BROKER, Integer.toString(i)));
        Set<String> found = new TreeSet<>();
        admin.describeConfigs(brokers).all().get(10, TimeUnit.SECONDS).forEach((resource, config) -> config.entries().stream()
            .filter(e -> e.source() == ConfigEntry.ConfigSource.DYNAMIC_BROKER_CONFIG
                || e.source() == ConfigEntry.ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG)
            .forEach(e -> found.add(resource.name() + " " + e.name() + "=" + e.value())));
        return found;
    }

    /** Dynamic broker configuration of a new cluster; null when it cannot be asked. */
    static Set<String> dynamic(BrokerProcesses processes) {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", processes.bootstrapServers(), "default.api.timeout.ms", "10000", "request.timeout.ms", "5000"))) {
            return dynamic(admin, processes);
        } catch (Exception e) {
            no(e.toString());
            return null;
        }
    }

    private static boolean no(String why) {
        System.err.println("cluster not reused: " + why);
        return false;
    }
}
