package org.apache.kafka.common.test.junit;

import org.apache.kafka.common.test.ClusterInstance;
import org.apache.kafka.common.test.api.ClusterConfig;

import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.AfterTestExecutionCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ConditionEvaluationResult;
import org.junit.jupiter.api.extension.ExecutionCondition;
import org.junit.jupiter.api.extension.Extension;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.LifecycleMethodExecutionExceptionHandler;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;
import org.junit.jupiter.api.extension.TestExecutionExceptionHandler;
import org.junit.jupiter.api.extension.TestTemplateInvocationContext;

import ropewalk.kafkajava.ExternalCluster;

import java.util.List;

/**
 * Replaces the class of this name in Kafka's test jars, because it comes first on the class path. Kafka's
 * ClusterTestExtensions reads the annotations of a test and makes one of these for each invocation; this one starts
 * processes instead of servers in this JVM.
 */
public class RaftClusterInvocationContext implements TestTemplateInvocationContext {
    private final String baseDisplayName;
    private final ClusterConfig config;
    private final boolean combined;

    public RaftClusterInvocationContext(String baseDisplayName, ClusterConfig config, boolean isCombined) {
        this.baseDisplayName = baseDisplayName;
        this.config = config;
        this.combined = isCombined;
    }

    @Override
    public String getDisplayName(int invocationIndex) {
        return baseDisplayName + " [" + invocationIndex + "]" + (config.tags().isEmpty() ? "" : " " + String.join(", ", config.tags()));
    }

    @Override
    public List<Extension> getAdditionalExtensions() {
        return List.of(new Lifecycle(new ExternalCluster(config, combined)));
    }

    private final class Lifecycle implements ExecutionCondition, BeforeEachCallback, AfterTestExecutionCallback,
            AfterEachCallback, ParameterResolver, TestExecutionExceptionHandler, LifecycleMethodExecutionExceptionHandler {
        private final ExternalCluster cluster;

        Lifecycle(ExternalCluster cluster) {
            this.cluster = cluster;
        }

        @Override
        public ConditionEvaluationResult evaluateExecutionCondition(ExtensionContext context) {
            // Controllers are no processes here: of the two kinds of a test, one runs.
            if (combined && config.clusterTypes().size() > 1) return ConditionEvaluationResult.disabled(ExternalCluster.DUPLICATE);
            return ConditionEvaluationResult.enabled("");
        }

        @Override
        public void beforeEach(ExtensionContext context) {
            if (config.isAutoStart()) cluster.start();
        }

        @Override
        public void afterTestExecution(ExtensionContext context) {
            cluster.finish(context.getExecutionException().isEmpty());
        }

        @Override
        public void afterEach(ExtensionContext context) {
            cluster.finish(false);
        }

        @Override
        public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
            return parameter.getParameter().getType().equals(ClusterInstance.class);
        }

        @Override
        public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
            return cluster;
        }

        @Override
        public void handleTestExecutionException(ExtensionContext context, Throwable thrown) throws Throwable {
            cluster.rethrow(thrown);
        }

        @Override
        public void handleBeforeEachMethodExecutionException(ExtensionContext context, Throwable thrown) throws Throwable {
            cluster.rethrow(thrown);
        }

        @Override
        public void handleAfterEachMethodExecutionException(ExtensionContext context, Throwable thrown) throws Throwable {
            cluster.rethrow(thrown);
        }
    }
}
