// Computes a maximizing linear assignment over a dense [n, n] matrix by shortest augmenting paths with dual prices
// (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems", 1987,
// without its initialization). Bound: n³ comparisons, each reading one value; rows are read in order.
#include "numerics/assignment.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "moe/error.h"

namespace moe::numerics {
namespace {

constexpr int64_t free_column = -1;
constexpr double largest_value = 1e290;  // prices grow to n times it, and must stay finite

void check(const double *value, int64_t n) {
  if (n < 0 || n > std::numeric_limits<int32_t>::max())
    throw Error(MOE_INVALID_ARGUMENT, "n", "0 … 2147483647", std::to_string(n));
  const int64_t count = checked_multiply(n, n, "n");
  for (int64_t i = 0; i < count; ++i)
    if (!(std::abs(value[i]) <= largest_value))
      throw Error(MOE_INVALID_ARGUMENT, "cost", "values within ±1e290",
                  std::to_string(value[i]) + " at [" + std::to_string(i / n) + ", " + std::to_string(i % n) + "]");
}

}  // namespace

void assign_maximum(const double *value, int64_t n, int32_t *columns) {
  check(value, n);
  const auto size = static_cast<size_t>(n);
  std::vector<double> row_price(size), column_price(size), distance(size);
  std::vector<int64_t> row_of(size, free_column), previous_row(size);
  std::vector<int64_t> open(size);  // columns that the current tree has not reached
  std::vector<int64_t> closed;      // and those it has, in order
  closed.reserve(size);

  for (int64_t start = 0; start < n; ++start) {
    // Dijkstra over reduced costs from the free row `start` to the nearest free column.
    for (int64_t j = 0; j < n; ++j) open[static_cast<size_t>(j)] = j;
    std::fill(distance.begin(), distance.end(), std::numeric_limits<double>::infinity());
    closed.clear();
    size_t open_count = size;
    int64_t row = start, sink = free_column;
    double reached = 0;
    while (sink == free_column) {
      const double *row_values = value + row * n;
      const double base = reached - row_price[static_cast<size_t>(row)];
      double nearest = std::numeric_limits<double>::infinity();
      size_t nearest_place = 0;
      for (size_t place = 0; place < open_count; ++place) {
        const auto column = static_cast<size_t>(open[place]);
        const double through = base - row_values[column] - column_price[column];
        if (through < distance[column]) {
          distance[column] = through;
          previous_row[column] = row;
        }
        // A free column wins a tie: the path ends there.
        if (distance[column] < nearest || (distance[column] == nearest && row_of[column] == free_column)) {
          nearest = distance[column];
          nearest_place = place;
        }
      }
      const int64_t column = open[nearest_place];
      open[nearest_place] = open[--open_count];
      closed.push_back(column);
      reached = nearest;
      if (row_of[static_cast<size_t>(column)] == free_column)
        sink = column;
      else
        row = row_of[static_cast<size_t>(column)];
    }
    // Prices move so that every edge of the tree is tight.
    row_price[static_cast<size_t>(start)] += reached;
    for (const int64_t closed_column : closed) {
      const auto column = static_cast<size_t>(closed_column);
      const double slack = reached - distance[column];
      if (closed_column != sink) row_price[static_cast<size_t>(row_of[column])] += slack;
      column_price[column] -= slack;
    }
    // The path from the sink back to the start swaps its edges.
    for (int64_t column = sink; column != free_column;) {
      const int64_t taken = previous_row[static_cast<size_t>(column)];
      row_of[static_cast<size_t>(column)] = taken;
      const int64_t next = taken == start ? free_column : columns[taken];
      columns[taken] = static_cast<int32_t>(column);
      column = next;
    }
  }
}

}  // namespace moe::numerics
