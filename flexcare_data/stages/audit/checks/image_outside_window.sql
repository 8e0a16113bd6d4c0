-- Was the radiograph taken outside the window in which the task looks for one? Both ends of the window are inclusive.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, dicom_id, window_start, window_end FROM samples WHERE dicom_id IS NOT NULL;

SELECT checked.*, study_datetime
FROM checked LEFT JOIN radiographs USING (dicom_id)
WHERE coalesce(study_datetime NOT BETWEEN window_start AND window_end, true);
