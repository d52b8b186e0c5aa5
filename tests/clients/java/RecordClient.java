// Apache Kafka's own client in the matrix; the orders are described in tests/clients/python/records.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class RecordClient {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        JsonNode orders = JSON.readTree(System.in);
        if (args[0].equals("write")) {
            write(orders);
        } else {
            read(orders);
        }
    }

    private static void write(JsonNode orders) throws Exception {
        for (JsonNode topic : orders.get("topics")) {
            Map<String, Object> config = Map.of(
                "bootstrap.servers", orders.get("bootstrap").asText(),
                "acks", "all",
                "linger.ms", 20,
                "compression.type", topic.get("compression").asText());
            try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
                List<Future<RecordMetadata>> sent = new ArrayList<>();
                for (JsonNode r : topic.get("records")) {
                    var record = new ProducerRecord<>(topic.get("topic").asText(), r.get("partition").asInt(),
                        r.get("timestamp").asLong(), decoded(r.get("key")), decoded(r.get("value")));
                    for (JsonNode header : r.get("headers")) {
                        record.headers().add(header.get(0).asText(), decoded(header.get(1)));
                    }
                    sent.add(producer.send(record));
                }
                producer.flush();
                for (var future : sent) {
                    future.get();
                }
            }
        }
    }

    private static void read(JsonNode orders) throws Exception {
        Map<String, Integer> left = new HashMap<>();
        TreeSet<String> topics = new TreeSet<>();
        for (JsonNode p : orders.get("partitions")) {
            topics.add(p.get("topic").asText());
            if (p.get("count").asInt() > 0) {
                left.put(p.get("topic").asText() + " " + p.get("partition").asInt(), p.get("count").asInt());
            }
        }
        Map<String, Object> config = Map.of(
            "bootstrap.servers", orders.get("bootstrap").asText(),
            "group.id", orders.get("group").asText(),
            "auto.offset.reset", "earliest",
            "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(topics);
            while (!left.isEmpty()) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.println(shown(r));
                    left.computeIfPresent(r.topic() + " " + r.partition(), (name, n) -> n == 1 ? null : n - 1);
                }
            }
            consumer.commitSync();
        }
    }

    private static ObjectNode shown(ConsumerRecord<byte[], byte[]> r) {
        ObjectNode line = JSON.createObjectNode();
        line.put("topic", r.topic()).put("partition", r.partition()).put("offset", r.offset());
        line.put("timestamp", r.timestamp()).put("key", encoded(r.key())).put("value", encoded(r.value()));
        ArrayNode headers = line.putArray("headers");
        for (Header header : r.headers()) {
            headers.addArray().add(header.key()).add(encoded(header.value()));
        }
        return line;
    }

    private static byte[] decoded(JsonNode text) {
        return text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String encoded(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }
}
