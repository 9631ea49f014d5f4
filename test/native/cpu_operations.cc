// The row kernels of the cpu device against the reference: embed, norm, rotate, map, take, combine, convolve, score.
#include "cpu_operations.h"

namespace moe::test {
namespace {

constexpr int64_t awkward[] = {1, 3, 17, 60, 72, 257, 511};

TEST_CASE("cpu embed reads every table dtype; ids out of range are zeros") {
  for (const int64_t width : awkward) {
    for (const int32_t dtype : {MOE_F32, MOE_F16, MOE_BF16}) {
      CAPTURE(width);
      CAPTURE(dtype);
      Case graph;
      const int32_t tokens = graph.symbol_of(7);
      const int ids = graph.input(i32({7}, {0, 4, -1, 5, 2, 2147483647, -2147483648.0}), {symbol(tokens)});
      const int table = graph.constant(random_array(dtype, {5, width}, 1));
      const int y = graph.output(MOE_F32, {symbol(tokens), width}, 9);
      graph.node(MOE_EMBED, moe_embed{1.5f, MOE_F32}, {ids, table}, {y});
      judge(graph, 1e-6);
    }
  }
}

TEST_CASE("cpu norm: both kinds, runs within a row, residual and sum") {
  for (const int64_t width : awkward) {
    for (const int32_t kind : {MOE_RMS, MOE_LAYER}) {
      for (const int64_t runs : {1, 3}) {
        for (const bool residual : {false, true}) {
          CAPTURE(width);
          CAPTURE(kind);
          CAPTURE(runs);
          Case graph;
          const int32_t tokens = graph.symbol_of(5);
          const Shape shape{symbol(tokens), width * runs};
          const int x = graph.input(random_array(MOE_F32, {5, width * runs}, 1, 3), shape);
          const int weight = graph.constant(random_array(MOE_F32, {width}, 2));
          const int bias = kind == MOE_LAYER ? graph.constant(random_array(MOE_F32, {width}, 3)) : -1;
          const int other = residual ? graph.input(random_array(MOE_F32, {5, width * runs}, 4), shape) : -1;
          const int y = graph.output(MOE_F32, shape);
          const int total = residual ? graph.output(MOE_F32, shape) : -1;
          graph.node(MOE_NORM, moe_norm{kind, static_cast<int32_t>(runs == 1 ? 0 : width), 1e-5f},
                     {x, weight, bias, other}, {y, total});
          judge(graph, 3e-5);
        }
      }
    }
  }
}

TEST_CASE("cpu norm in 16-bit floats and without a weight") {
  Case graph;
  const int32_t tokens = graph.symbol_of(300);
  const int x = graph.input(random_array(MOE_BF16, {300, 511}, 1), {symbol(tokens), 511});
  const int y = graph.output(MOE_F16, {symbol(tokens), 511});
  graph.node(MOE_NORM, moe_norm{MOE_RMS, 0, 1e-6f}, {x}, {y});
  judge(graph, 1e-3);
}

TEST_CASE("cpu rotate: half split and interleaved, whole and partial heads") {
  for (const int32_t interleaved : {0, 1}) {
    for (const auto &[dim, pairs] : {std::pair{2, 1}, {6, 3}, {64, 32}, {72, 36}, {80, 20}, {130, 33}}) {
      CAPTURE(dim);
      CAPTURE(interleaved);
      Case graph;
      const int32_t tokens = graph.symbol_of(6);
      const int x = graph.input(random_array(MOE_F32, {6, 3 * dim}, 1), {symbol(tokens), 3 * dim});
      const int positions = graph.input(i32({6}, {0, 1, 17, 4095, 131071, 3}), {symbol(tokens)});
      Array table = filled(MOE_F32, {pairs});
      for (int i = 0; i < pairs; ++i) table.set(i, std::pow(10000.0, -static_cast<double>(i) / pairs));
      const int y = graph.output(MOE_F32, {symbol(tokens), 3 * dim});
      graph.node(MOE_ROTATE, moe_rotate{3, interleaved, 1.1f}, {x, positions, graph.constant(table)}, {y});
      judge(graph, 1e-5);
    }
  }
}

TEST_CASE("cpu map: every function, b whole, spread and absent, NaN and infinity") {
  for (int32_t function = MOE_FUNCTION_ADD; function <= MOE_FUNCTION_TANH; ++function) {
    const bool two = function <= MOE_FUNCTION_MULTIPLY;
    for (const int64_t width : awkward) {
      for (const bool spread : {false, true}) {
        if (spread && !two) continue;
        CAPTURE(function);
        CAPTURE(width);
        Case graph;
        const int32_t tokens = graph.symbol_of(4);
        Array values = random_array(MOE_F32, {4, width}, 1, 4);
        if (width > 3) {
          const double extreme[] = {-1e30, 1e30, -100, 100, -12, 12, 0, -0.0, 1e-30, NAN};
          for (int64_t i = 0; i < 10; ++i) values.set(i + width - 5, extreme[i]);
        }
        const int a = graph.input(values, {symbol(tokens), width});
        const int64_t other = spread ? 1 : width;
        const int b = two ? graph.input(random_array(MOE_F32, {4, other}, 2), {symbol(tokens), other}) : -1;
        const int y = graph.output(MOE_F32, {symbol(tokens), width});
        graph.node(MOE_MAP, moe_map{function, -0.75f, 1.25f}, {a, b}, {y});
        judge(graph, 2e-6);
      }
    }
  }
}

TEST_CASE("cpu map functions stay within 1e-6 relative") {
  constexpr int64_t count = 40001;
  for (int32_t function = MOE_FUNCTION_GELU; function <= MOE_FUNCTION_TANH; ++function) {
    Case graph;
    Array values = filled(MOE_F32, {1, count});
    for (int64_t i = 0; i < count; ++i) values.set(i, -10 + 20.0 * static_cast<double>(i) / (count - 1));
    const int a = graph.input(values);
    const int y = graph.output(MOE_F32, {1, count});
    graph.node(MOE_MAP, moe_map{function, 0, 0}, {a}, {y});
    const Array expected = run(moe_backend_reference(), graph)[static_cast<size_t>(y)];
    for (const std::string &isa : operation_sets()) {
      const Array got = run(moe_backend_cpu(), graph, ("isa=" + isa).c_str())[static_cast<size_t>(y)];
      double worst = 0;
      for (int64_t i = 0; i < count; ++i)
        if (std::abs(expected.at(i)) > 1e-9) worst = std::max(worst, std::abs(got.at(i) / expected.at(i) - 1));
      CAPTURE(isa);
      CAPTURE(function);
      // The gelu forms take exp of a rounded polynomial of x: its error grows with x², where the result is almost
      // nothing.
      CHECK(worst <= (function == MOE_FUNCTION_GELU || function == MOE_FUNCTION_GELU_TANH ? 8e-6 : 1e-6));
    }
  }
}

TEST_CASE("cpu take: every dtype, index out of range") {
  for (const int32_t dtype : {MOE_F32, MOE_F16, MOE_BF16, MOE_I32}) {
    Case graph;
    const int32_t tokens = graph.symbol_of(6);
    const int x =
        graph.input(dtype == MOE_I32 ? random_integers({9, 17}, 1, -99, 99) : random_array(dtype, {9, 17}, 1));
    const int index = graph.input(i32({6}, {8, 0, -1, 9, 3, 2147483647}), {symbol(tokens)});
    const int y = graph.output(dtype, {symbol(tokens), 17}, 5);
    graph.node(MOE_TAKE, moe_take{0}, {x, index}, {y});
    judge(graph, 0);
  }
}

TEST_CASE("cpu combine: repeated and missing rows, shared, its gate, residual") {
  for (const int64_t width : awkward) {
    for (int parts = 0; parts < 6; ++parts) {
      CAPTURE(width);
      CAPTURE(parts);
      Case graph;
      const int32_t tokens = graph.symbol_of(4);
      const Shape shape{symbol(tokens), width};
      const int rows = graph.input(random_array(MOE_F32, {12, width}, 1));
      const int row_of = graph.input(i32({4, 3}, {0, 5, 0, -1, -1, -1, 11, 12, 3, 7, 7, 2}), {symbol(tokens), 3});
      const int gate_of = graph.input(random_array(MOE_F32, {12}, 2));
      const int shared = parts % 3 > 0 ? graph.input(random_array(MOE_F32, {4, width}, 3), shape) : -1;
      const int gate = parts % 3 > 1 ? graph.input(random_array(MOE_F32, {4, 1}, 4), {symbol(tokens), 1}) : -1;
      const int residual = parts > 2 ? graph.input(random_array(MOE_F32, {4, width}, 5), shape) : -1;
      const int y = graph.output(MOE_F32, shape, 9);
      graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, row_of, gate_of, shared, gate, residual}, {y});
      judge(graph, 1e-6);
    }
  }
}

TEST_CASE("cpu combine takes more choices than it holds at once") {
  Case graph;
  const int32_t tokens = graph.symbol_of(3);
  const int rows = graph.input(random_array(MOE_F32, {100, 300}, 1));
  const int row_of = graph.input(random_integers({3, 90}, 2, -2, 101), {symbol(tokens), 90});
  const int gate_of = graph.input(random_array(MOE_F32, {100}, 3));
  const int y = graph.output(MOE_F32, {symbol(tokens), 300});
  graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, row_of, gate_of}, {y});
  judge(graph, 3e-6);
}

TEST_CASE("cpu combine onto the rows of a second routing leaves unnamed rows as they are") {
  for (const int64_t width : {1, 60, 511}) {
    Case graph;
    const int32_t tokens = graph.symbol_of(4);
    const int rows = graph.input(random_array(MOE_F32, {12, width}, 1));
    const int row_of = graph.input(i32({4, 3}, {0, 5, 6, -1, 1, -1, 11, 12, 3, 7, 7, 2}), {symbol(tokens), 3});
    const int gate_of = graph.input(random_array(MOE_F32, {12}, 2));
    const int onto = graph.input(i32({4, 3}, {4, 4, 2, -1, 3, 9, 12, 0, 1, 6, 5, 6}), {symbol(tokens), 3});
    const int y = graph.output(MOE_F32, {12, width}, 9);
    graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, row_of, gate_of, -1, -1, -1, onto}, {y});
    judge(graph, 1e-6, false);
  }
}

TEST_CASE("cpu convolve: taps, activation, bias, several sequences, position 0, a sequence out of range") {
  for (const int64_t channels : awkward) {
    for (const int64_t taps : {2, 3, 4}) {
      for (const bool full : {false, true}) {
        CAPTURE(channels);
        CAPTURE(taps);
        Case graph;
        const int32_t tokens = graph.symbol_of(10);
        const int x = graph.input(random_array(MOE_F32, {10, channels}, 1), {symbol(tokens), channels});
        const int weight = graph.constant(random_array(MOE_F32, {channels, taps}, 2));
        const int bias = full ? graph.constant(random_array(MOE_F32, {channels}, 3)) : -1;
        const int sequence = graph.input(i32({10}, {1, 1, 1, 1, 1, 0, 0, 2, 7, 7}), {symbol(tokens)});
        const int positions = graph.input(i32({10}, {5, 6, 7, 8, 9, 0, 1, 3, 0, 1}), {symbol(tokens)});
        const int state = graph.state(random_array(MOE_F32, {3, (taps - 1) * channels}, 4));
        const int y = graph.output(MOE_F32, {symbol(tokens), channels}, 9);
        graph.node(MOE_CONVOLVE, moe_convolve{full ? MOE_SILU : MOE_NONE},
                   {x, weight, bias, sequence, positions, state}, {y});
        judge(graph, 3e-6);
      }
    }
  }
}

TEST_CASE("cpu score: log-probabilities, top ids with ties, NaN and infinity") {
  for (const int64_t width : {5, 17, 60, 257, 5000}) {
    CAPTURE(width);
    Case graph;
    const int32_t tokens = graph.symbol_of(5);
    Array logits = random_array(MOE_F32, {5, width}, 1, 3);
    for (int64_t i = 0; i < width; ++i) logits.set(width + i, 1);  // all tie
    logits.set(2 * width + 3, NAN);
    logits.set(2 * width + 4, 9);
    logits.set(2 * width + 1, 9);
    logits.set(3 * width + 2, HUGE_VAL);
    logits.set(3 * width, -HUGE_VAL);
    const int x = graph.input(logits, {symbol(tokens), width});
    const int ids =
        graph.input(i32({5}, {0, static_cast<double>(width - 1), -1, 2, static_cast<double>(width)}), {symbol(tokens)});
    const int chosen = graph.output(MOE_F32, {symbol(tokens)}, 9);
    const int top_ids = graph.output(MOE_I32, {symbol(tokens), 5}, 9);
    const int top = graph.output(MOE_F32, {symbol(tokens), 5}, 9);
    graph.node(MOE_SCORE, moe_score{5}, {x, ids}, {chosen, top_ids, top});
    judge(graph, 2e-6);
  }
}

}  // namespace
}  // namespace moe::test
