import tensorflow as tf

from saver.impure_ops import impurities

COUNT = tf.Variable(0.0)
GENERATOR = tf.random.Generator.from_seed(1)
ROW = tf.TensorSpec([None, 2], tf.float32)


def found(call):
    return impurities(tf.function(call, input_signature=[ROW]).get_concrete_function())


def test_arithmetic_and_reading_variables_are_pure():
    assert found(lambda x: tf.nn.softmax(x @ tf.ones([2, 3])) + COUNT) == []


def test_random_numbers_are_not():
    assert found(lambda x: x + tf.random.uniform(tf.shape(x))) == ["RandomUniform"]
    assert found(lambda x: tf.random.categorical(x, 1)) == ["Multinomial"]
    assert found(lambda x: x + tf.random.truncated_normal([2])) == ["TruncatedNormal"]
    assert found(lambda x: x + GENERATOR.normal([2])) != []
    assert found(lambda x: tf.nn.dropout(x, 0.5)) != []


def test_assignments_are_not_even_when_nothing_depends_on_them():
    def counting(x):
        COUNT.assign_add(1.0)
        return x

    assert found(counting) == ["AssignAddVariableOp"]


def test_what_no_output_depends_on_does_not_count():
    def idle(x):
        tf.random.uniform([2])
        return x

    assert found(idle) == []


def test_functions_branches_and_loops_are_looked_into():
    inner = tf.function(lambda x: x + tf.random.normal([2]))
    assert "RandomStandardNormal" in found(lambda x: inner(x) + 1)
    assert "RandomStandardNormal" in found(lambda x: tf.cond(x[0, 0] > 0, lambda: inner(x), lambda: x))
    assert "RandomStandardNormal" in found(lambda x: tf.while_loop(lambda y: tf.norm(y) < 9, inner, [x])[0])
    calm = tf.function(lambda x: x + 1)
    assert found(lambda x: calm(x)) == []


def test_python_code_in_the_graph_cannot_be_judged():
    assert found(lambda x: tf.numpy_function(lambda y: y, [x], tf.float32)) == ["PyFunc"]


def test_writes_into_parts_of_variables_are_seen():
    table = tf.Variable([0.0, 0.0])

    def scattering(x):
        table.scatter_nd_add([[0]], [1.0])
        return x

    assert found(scattering) == ["ResourceScatterNdAdd"]
    assert found(lambda x: x + tf.gather(table, [0])) == []
