-- Does a cell without a value in its hour show anything else than the cell of the hour before, or, in the first hour of
-- a stay, than the value that stands for a missing one?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, hour FROM grid_rows;

WITH rows_in_order AS (
    SELECT task, sample_id, stay_id, hour, cells::DOUBLE[] AS cells, observed::BOOLEAN[] AS observed,
        lag(cells::DOUBLE[]) OVER (PARTITION BY sample_id, stay_id ORDER BY hour) AS before,
        (SELECT list(initial ORDER BY bit) FROM variables) AS initial
    FROM grid_rows
), expected AS (
    -- The first row of a sample that ends inside an hour follows a row of its stay, which is not at hand.
    SELECT *, CASE WHEN before IS NOT NULL THEN before WHEN hour = 0 THEN initial END AS carried FROM rows_in_order
)
SELECT task, sample_id, stay_id, hour FROM expected
WHERE carried IS NOT NULL AND len(list_filter(range(1, 18), lambda i:
    NOT observed[i] AND carried[i] IS NOT NULL AND cells[i] IS DISTINCT FROM carried[i])) > 0;
