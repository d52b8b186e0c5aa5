// A consumer of Apache Kafka's own client: reads until COUNT records came or SECONDS passed, then commits.
//
//   Consume BOOTSTRAP TOPIC GROUP RESET COUNT SECONDS
//
// Prints {"value": …} per record, and {"error": class, "message": …} for what poll throws, which ends it.

import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Consume {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        int left = Integer.parseInt(args[4]);
        long end = System.nanoTime() + Long.parseLong(args[5]) * 1_000_000_000L;
        Map<String, Object> config = Map.of(
            "bootstrap.servers", args[0], "group.id", args[2], "auto.offset.reset", args[3],
            "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(args[1]));
            while (left > 0 && System.nanoTime() < end) {
                try {
                    for (var record : consumer.poll(Duration.ofMillis(200))) {
                        print(Map.of("value", record.value(), "offset", record.offset()));
                        left--;
                    }
                } catch (KafkaException e) {
                    print(Map.of("error", e.getClass().getSimpleName(), "message", String.valueOf(e.getMessage())));
                    break;
                }
            }
            if (left <= 0) {
                consumer.commitSync();
            }
        }
    }

    private static void print(Map<String, ?> line) throws Exception {
        System.out.println(JSON.writeValueAsString(line));
        System.out.flush();
    }
}
